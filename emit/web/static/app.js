// The page: two views, a panel, and the stream of figures.

import { ask } from "./dom.js";
import { Dead } from "./dead.js";
import { Picture } from "./graph.js";
import { Panel } from "./panel.js";

const get = (id) => document.getElementById(id);
const graph = await ask("api/graph");
document.title = `${graph.title} – Emit`;
get("title").textContent = graph.title;

const panel = new Panel(get("panel"));
let figures = null;
const open = (name) => panel.open(graph.nodes.find((node) => node.name === name), figures);
const picture = new Picture(get("picture"), graph, open);
const dead = new Dead(get("dead"), graph, (count) => {
  get("dead-count").textContent = count ? String(count) : "";
});

const show = (view) => {
  for (const name of ["graph", "dead"]) {
    get(name).hidden = name !== view;
    get(`show-${name}`).setAttribute("aria-pressed", String(name === view));
  }
  if (view === "dead") dead.load();
};
get("show-graph").onclick = () => show("graph");
get("show-dead").onclick = () => show("dead");
if (graph.dead) {
  get("show-dead").hidden = false;
  dead.load();
}

get("zoom-in").onclick = () => picture.zoom(1 / 1.4);
get("zoom-out").onclick = () => picture.zoom(1.4);
get("zoom-all").onclick = () => picture.all();
get("search").oninput = (event) => picture.find(event.target.value);
get("search").onkeydown = (event) => {
  const [first] = picture.find(event.target.value);
  if (event.key === "Enter" && first) open(first);
};

const KEYS = {
  "+": () => picture.zoom(1 / 1.4),
  "-": () => picture.zoom(1.4),
  0: () => picture.all(),
  ArrowLeft: () => picture.pan(-0.1, 0),
  ArrowRight: () => picture.pan(0.1, 0),
  ArrowUp: () => picture.pan(0, -0.1),
  ArrowDown: () => picture.pan(0, 0.1),
  "/": () => get("search").focus(),
  Escape: () => panel.close(),
};
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea") && event.key !== "Escape";
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});

let heard = 0;
const stream = new EventSource("api/events");
stream.onmessage = (event) => {
  figures = JSON.parse(event.data);
  heard = Date.now();
  picture.update(figures);
  panel.update(figures);
};
setInterval(() => {
  const age = figures ? Math.round((Date.now() - heard) / 1000) : null;
  get("source").textContent = age === null ? "waiting for figures"
    : `${figures.source}, ${age < 3 ? "now" : `${age} s ago`}`;
  get("source").classList.toggle("old", age !== null && age >= 3);
}, 500);
document.body.dataset.ready = "yes";
