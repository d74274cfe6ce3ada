// Messages as they pass a node or an edge.

import { html, refill } from "./dom.js";

// Entries that stay on the page.
const KEPT = 100;

export class Tap {
  /** @param element Where it is shown. */
  constructor(element) {
    this.element = element;
    this.stream = null;
    this.said = html("p", { role: "status" });
    this.list = html("ol", { class: "passed", tabindex: 0, "aria-label": "Messages that pass" });
    window.addEventListener("pagehide", () => this.stop());
  }

  /** Offer to watch a node, and each edge that ends there. */
  offer(name, origins) {
    this.stop();
    const button = (text, point) => html("button", { type: "button", onclick: () => this.start(text, point) }, text);
    refill(
      this.element,
      html("h3", {}, "Messages"),
      html("p", { class: "buttons" },
        button("Watch the node", name),
        ...origins.map((origin) => button(
          origin === "__entry_point" ? "Watch calls of the router" : `Watch ${origin} → ${name}`,
          `${origin} -> ${name}`))),
      this.said,
      this.list,
    );
    this.said.textContent = "";
    refill(this.list);
  }

  /** Watch a node or an edge until the server or somebody stops it. */
  start(text, point) {
    this.stop();
    refill(this.list);
    this.said.textContent = `${text}: beginning`;
    const stop = html("button", { type: "button", onclick: () => this.stop("Stopped.") }, "Stop");
    this.stream = new EventSource(`api/tap?point=${encodeURIComponent(point)}`);
    this.stream.onmessage = (event) => {
      const told = JSON.parse(event.data);
      if (told.fault) return this.stop(told.fault);
      if (told.over) return this.stop("Off after a minute.");
      refill(this.said, `${text}: a sample, from ${told.watched} `, stop);
      for (const each of told.seen) this.#add(each);
      return undefined;
    };
    this.stream.onerror = () => this.stop("The server has ended the tap.");
  }

  /** Watch no longer. */
  stop(why) {
    if (!this.stream) return;
    this.stream.close();
    this.stream = null;
    this.said.textContent = why ?? "";
  }

  #add(each) {
    const at = new Date(each.at * 1000).toLocaleTimeString();
    const where = `${at} ${each.machine}`.trim();
    let line;
    if (each.way === "message") {
      const again = each.attempt > 1 ? `, attempt ${each.attempt}` : "";
      line = html("li", { class: "got" }, html("small", {}, `${where} gets${again}`), html("code", {}, JSON.stringify(each.fields)));
    } else if (each.way === "result") {
      line = html("li", { class: "gave" }, html("small", {}, `${where} gives`), html("code", {}, JSON.stringify(each.fields)));
    } else if (each.error) {
      line = html("li", { class: "fault" }, html("small", {}, where), `failed: ${each.error}`);
    } else return;
    this.list.prepend(line);
    while (this.list.childElementCount > KEPT) this.list.lastElementChild.remove();
  }
}
