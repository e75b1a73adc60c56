"""In front of all that the console answers: names, the token, logging in and out, headers of answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container
from urllib.parse import parse_qs

from aiohttp import web

from streamseg.web.access import Access, behind_tls, page_problem
from streamseg.web.connections import answering, receiving
from streamseg.web.pages import HEADERS, Pages

FORM_WITHIN_S = 5.0
FORM_FIELDS = 8
YEAR_S = 365 * 24 * 3600

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Guard:
    """Applies the rules of Access to requests; check() is the application's only middleware, and protect()
    sees every answer."""

    def __init__(self, access: Access, pages: Pages) -> None:
        self.by_any_name: Container[object] = ()  # handlers that answer whatever the Host header says
        self.without_token: Container[object] = ()  # handlers that answer everybody
        self._access = access
        self._pages = pages

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        with answering(request):
            return self._authorize(request) or await handler(request)

    async def protect(self, _: web.Request, response: web.StreamResponse) -> None:
        """Give an answer the headers of all; aiohttp calls it also for those that it makes itself."""
        own = response.headers.get("Cache-Control")
        response.headers.update(HEADERS)
        if own is not None:
            response.headers["Cache-Control"] = own

    def _authorize(self, request: web.Request) -> web.StreamResponse | None:
        """None where access is allowed; otherwise the answer, or raises it."""
        handler = request.match_info.handler
        if handler not in self.by_any_name and (
            problem := self._access.host_problem(request.headers.get("Host", ""))
        ):
            raise web.HTTPForbidden(text=f"{problem}\n")
        shown = request.query.get("token")
        if shown is not None and request.path == "/" and self._access.token:
            if not self._access.is_token(shown):
                raise web.HTTPUnauthorized(text="wrong token\n")
            return self._logged_in(request)
        if handler in self.without_token or self._access.knows(request.headers, request.cookies):
            return None
        if request.path == "/" and "text/html" in request.headers.get("Accept", ""):
            return self._pages.answer(request, "login.html", status=401)
        raise web.HTTPUnauthorized(
            text="a token is required: log in at /, or send Authorization: Bearer …\n",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _logged_in(self, request: web.Request) -> web.Response:
        """To the console, with a cookie for this path of this name alone."""
        response = web.Response(status=303, headers={"Location": "./"})
        response.set_cookie(
            self._access.cookie,
            self._access.session,
            max_age=YEAR_S,
            path="",  # that of the request: below a proxy's path the others are not ours
            secure=behind_tls(request.headers),
            httponly=True,
            samesite="Strict",
        )
        return response

    async def login(self, request: web.Request) -> web.Response:
        """Take the token of the login page's form."""
        need_own_page(request)
        try:
            with receiving(request):
                async with asyncio.timeout(FORM_WITHIN_S):
                    body = await request.read()
            form = parse_qs(body.decode(errors="replace"), max_num_fields=FORM_FIELDS)
        except (TimeoutError, ValueError, web.RequestPayloadError):
            raise web.HTTPBadRequest(text="not a form\n") from None
        if self._access.token and not self._access.is_token(form.get("token", [""])[0]):
            return web.Response(status=303, headers={"Location": "./?wrong"})
        return self._logged_in(request)

    async def logout(self, request: web.Request) -> web.Response:
        need_own_page(request)
        response = web.Response(status=303, headers={"Location": "./"})
        response.del_cookie(self._access.cookie, path="")
        return response


def need_own_page(request: web.Request) -> None:
    """Raise HTTPForbidden, with the reason, for a request that a page of another site has sent."""
    if problem := page_problem(request.headers):
        raise web.HTTPForbidden(text=f"{problem}\n")
