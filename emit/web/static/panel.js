// The details of one node.

import { ask, bytes, duration, html, perSecond, refill, svg, when } from "./dom.js";
import { stateOf } from "./graph.js";
import { Tap } from "./tap.js";

export class Panel {
  /**
   * @param element The aside.
   * @param graph What the server tells of the graph.
   */
  constructor(element, graph) {
    this.element = element;
    this.graph = graph;
    this.name = null;
    this.figures = html("dl", {});
    this.messages = html("div", {});
    this.rest = html("div", {});
    this.tap = new Tap(this.messages);
  }

  /** Show a node. */
  async open(node, figures) {
    this.name = node.name;
    const close = html("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => this.close() }, "×");
    refill(
      this.element,
      close,
      html("h2", { tabindex: -1 }, node.name),
      html("p", {}, `${node.tag}${node.fields.length ? `, emits ${node.fields.join(", ")}` : ""}`),
      this.figures,
      this.messages,
      this.rest,
    );
    const origins = this.graph.edges.filter((edge) => edge.node === node.name).map((edge) => edge.origin);
    if (this.graph.payloads) this.tap.offer(node.name, origins);
    this.element.hidden = false;
    this.element.querySelector("h2").focus();
    this.update(figures);
    refill(this.rest);
    try {
      const told = await ask(`api/node?name=${encodeURIComponent(node.name)}`);
      if (this.name !== node.name) return;
      const faults = html("div", {});
      refill(this.rest, ...over(told.history, told.step), faults,
        ...processes(told.processes), ...gets(told.gets), ...settings(told.settings));
      const said = await ask(`api/node/errors?name=${encodeURIComponent(node.name)}`);
      refill(faults, ...errors(said.errors), ...ends(said.stderr));
    } catch (error) {
      refill(this.rest, html("p", { class: "fault" }, error.message));
    }
  }

  /** Show new figures. */
  update(figures) {
    if (!this.name || !figures) return;
    const told = figures.nodes[this.name];
    if (!told) return;
    const rows = [
      ["State", stateOf(told)],
      ["Rate", perSecond(told.rate)],
      ["Messages", String(told.calls)],
      ["Failed", String(told.failures)],
      ["p50, p99", `${duration(told.p50)}, ${duration(told.p99)}`],
      ["Waiting", String(told.queued)],
      ["Processes", told.processes ? `${told.busy} busy of ${told.processes}` : "–"],
      ["Restarts", String(told.restarts)],
      ["Memory", bytes(told.rss_bytes)],
    ];
    if (told.died) rows.push(["Died lately", String(told.died)]);
    if (told.error) rows.push(["Can't start", told.error]);
    refill(this.figures, ...rows.flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, value)]));
  }

  close() {
    this.tap.stop();
    this.name = null;
    this.element.hidden = true;
  }
}

const WIDE = 360;
const HIGH = 70;

/** Durations over time, as a picture and in words. */
const over = (history, step) => {
  const most = Math.max(0, ...history.map(([, , p99]) => p99));
  if (!most) return [];
  const line = (place, name) => svg("polyline", {
    class: name,
    points: history.map((each, at) =>
      `${((at * WIDE) / Math.max(1, history.length - 1)).toFixed(1)},${(HIGH - (each[place] * (HIGH - 6)) / most).toFixed(1)}`).join(" "),
  });
  const minutes = Math.max(1, Math.round((history.length * step) / 60));
  const label = `p50 and p99 of the last ${minutes} min, up to ${duration(most)}`;
  return [
    html("h3", {}, "Over time"),
    svg("svg", { class: "over", viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label }, line(1, "p50"), line(2, "p99")),
    html("p", {}, html("small", {}, label)),
  ];
};

const table = (caption, head, rows) => html("table", {},
  html("caption", {}, caption),
  html("thead", {}, html("tr", {}, ...head.map((each) => html("th", { scope: "col" }, each)))),
  html("tbody", {}, ...rows.map((row) => html("tr", {}, ...row.map((each) => html("td", {}, each))))));

const age = (seconds) => (seconds < 120 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);

const processes = (list) => (list.length ? [
  table("Processes", ["machine", "pid", "state", "messages", "age", "memory", "version"], list.map((each) => [
    each.machine, String(each.pid), each.state, String(each.calls), age(each.age_seconds),
    bytes(each.rss_bytes), each.version ? html("span", { title: each.version }, each.version.slice(0, 7)) : "–"])),
] : []);

const gets = (list) => (list.length ? [
  table("Gets", ["from", "fields"], list.map((each) => [
    each.origin === "__entry_point" ? "calls of the router" : each.origin,
    each.fields === null ? "what the caller gives" : each.fields.join(", ") || "–"])),
] : []);

const settings = (list) => (list.length ? [
  html("details", {},
    html("summary", {}, "Settings"),
    table("Settings, those that differ from the default first", ["setting", "value", "default"],
      [...list].sort((a, b) => b.changed - a.changed).map((each) => [
        each.name, each.changed ? html("b", {}, each.value) : each.value, each.default]))),
] : []);

const errors = (list) => (list.length ? [
  html("h3", {}, "Last errors"),
  ...list.map((error) => html("details", {},
    html("summary", {}, `${when(error.at)} on ${error.machine}: ${error.type}`),
    html("pre", {}, `${error.text}\n${error.stderr_tail ?? ""}`.trim()))),
] : []);

const ends = (list) => list.filter((each) => each.tail).map((each) => html("details", {},
  html("summary", {}, `stderr of process ${each.pid} on ${each.machine}`),
  html("pre", {}, each.tail)));
