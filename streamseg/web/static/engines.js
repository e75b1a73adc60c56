// Choosing the network of a stream: what there is, which one runs, and waiting for the one that was chosen.

import { element } from "./elements.js";

const $ = (id) => document.getElementById(id);
let turn = 0; // dialogs that were opened; an answer to an earlier one is not shown

export async function chooseEngine(tile, app) {
  const mine = ++turn;
  const running = tile.shown?.header.engine;
  $("engine-title").textContent = `Choose a network for ${tile.name}`;
  $("engine-now").textContent = running ? `Its masks are made by ${running}.` : "It has no mask yet.";
  $("engine-problems").textContent = "";
  $("engine-list").replaceChildren($("engine-list").firstElementChild);
  busy(false);
  $("engine-dialog").showModal();
  const answer = await app.link.request("engines", tile.name);
  if (mine !== turn) return;
  if (answer.problems.length) {
    $("engine-problems").textContent = answer.problems.join("\n");
    return;
  }
  $("engine-list").append(...answer.engines.map(({ name, text }) => element("label", {},
    element("input", { type: "radio", name: "engine", value: name, required: true, checked: running?.startsWith(`${name}/`) }),
    element("span", { textContent: name }), element("span", { className: "dim", textContent: text }))));
  $("engine-form").onsubmit = async (event) => {
    event.preventDefault();
    const { value } = event.target.elements.engine;
    busy(true);
    app.announce(`${tile.name}: ${value} is being loaded`);
    const { problems } = await app.link.request("engine", tile.name, { engine: value });
    const words = problems.length ? `${tile.name}: ${problems.join("; ")}` : `${tile.name} runs on ${value}`;
    if (mine !== turn || !$("engine-dialog").open) return problems.length ? app.complain(words) : app.announce(words);
    busy(false);
    $("engine-problems").textContent = problems.join("\n");
    if (!problems.length) $("engine-dialog").close();
    app.announce(words);
  };
  $("engine-cancel").onclick = () => $("engine-dialog").close();
}

function busy(loading) {
  $("engine-use").disabled = loading;
  $("engine-use").textContent = loading ? "Loading…" : "Use it";
}
