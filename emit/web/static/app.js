// The page: two views, a panel, and the stream of figures.

import { ask } from "./dom.js";
import { Dead } from "./dead.js";
import { Picture } from "./graph.js";
import { Panel } from "./panel.js";

const get = (id) => document.getElementById(id);
const graph = await ask("api/graph");
document.title = `${graph.title} – Emit`;
get("title").textContent = graph.title;

const panel = new Panel(get("panel"), graph);
let figures = null;
const open = (name) => panel.open(graph.nodes.find((node) => node.name === name), figures);
const picture = new Picture(get("picture"), graph, open);
picture.onEdge = async (edge) => {
  await open(edge.node);
  const from = edge.origin === "__entry_point" ? "calls of the router" : `${edge.origin} → ${edge.node}`;
  if (graph.payloads) panel.tap.start(`Watch ${from}`, `${edge.origin} -> ${edge.node}`);
};
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
// The age of the oldest figure: that of its source when it came, and the time since.
setInterval(() => {
  if (!figures) {
    get("source").textContent = "waiting for figures";
    return;
  }
  const told = figures.sources.filter((source) => source.age <= 4).map((source) => source.age);
  const age = Math.max(0, ...told) + (Date.now() - heard) / 1000;
  const silent = figures.sources.filter((source) => source.age > 4);
  const silence = silent.length ? `; silent: ${silent.map((source) => source.name).join(", ")}` : "";
  get("source").textContent = `${figures.source}, ${age < 3 ? "now" : `${Math.round(age)} s ago`}${silence}`;
  get("source").title = figures.sources.map((source) => `${source.name}: ${source.age.toFixed(1)} s old`).join("\n");
  get("source").classList.toggle("old", age >= 3 || silent.length > 0);
}, 500);
document.body.dataset.ready = "yes";
