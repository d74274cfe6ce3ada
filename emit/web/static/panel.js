// The details of one node.

import { ask, bytes, duration, html, perSecond, refill, when } from "./dom.js";
import { stateOf } from "./graph.js";

export class Panel {
  constructor(element) {
    this.element = element;
    this.name = null;
    this.figures = html("dl", {});
    this.rest = html("div", {});
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
      this.rest,
    );
    this.element.hidden = false;
    this.element.querySelector("h2").focus();
    this.update(figures);
    refill(this.rest);
    try {
      const told = await ask(`api/node?name=${encodeURIComponent(node.name)}`);
      if (this.name === node.name) refill(this.rest, ...errors(told.errors), ...ends(told.stderr));
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
      ["Versions", Object.keys(told.versions).join(", ") || "–"],
    ];
    if (told.error) rows.push(["Can't start", told.error]);
    refill(this.figures, ...rows.flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, value)]));
  }

  close() {
    this.name = null;
    this.element.hidden = true;
  }
}

const errors = (list) => (list.length ? [
  html("h3", {}, "Last errors"),
  ...list.map((error) => html("details", {},
    html("summary", {}, `${when(error.at)}  ${error.type}`),
    html("pre", {}, `${error.text}\n${error.stderr_tail ?? ""}`.trim()))),
] : []);

const ends = (list) => list.filter((each) => each.tail).map((each) => html("details", {},
  html("summary", {}, `stderr of process ${each.pid}`),
  html("pre", {}, each.tail)));
