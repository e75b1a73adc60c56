// The login page: what was wrong with the last try, which must not stay in the address.

if (new URLSearchParams(location.search).has("wrong")) {
  document.getElementById("wrong").hidden = false;
  history.replaceState(null, "", "./");
}
