// The picture of the graph: places come from the server, figures from its stream.

import { duration, perSecond, svg } from "./dom.js";

/** The state of a node: a word for people, which is also its class. */
export const stateOf = (figures) => {
  if (!figures) return "quiet";
  if (figures.error || figures.breaker) return "down";
  if (figures.failing > 0 || figures.died > 0) return "failing";
  if (figures.queued > 0 && figures.busy >= figures.processes) return "waiting";
  return figures.rate > 0 ? "working" : "quiet";
};

// Shapes beside the colours, to be told from across the room and without colours.
const MARKS = { down: "✖", failing: "▲", waiting: "◆", working: "●", quiet: "○" };

export class Picture {
  /**
   * @param element The svg.
   * @param graph What the server tells of the graph.
   * @param open Called with the name of a node that is chosen.
   */
  constructor(element, graph, open) {
    this.element = element;
    this.graph = graph;
    this.nodes = new Map();
    this.edges = new Map();
    this.onEdge = () => {};
    this.view = { x: 0, y: 0, width: graph.width, height: graph.height };
    this.#draw(open);
    this.all();
    this.#listen();
  }

  #draw(open) {
    const { graph } = this;
    const arrow = svg("marker", {
      id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8,
      orient: "auto-start-reverse", markerUnits: "userSpaceOnUse",
    }, svg("path", { d: "M0,0 L8,4 L0,8 Z", class: "tip" }));
    const edges = graph.edges.map((edge) => {
      const title = edge.pattern ? `~${edge.pattern}` : `${edge.origin} → ${edge.node}`;
      const path = svg("path", {
        d: edge.path, class: edge.pattern ? "edge pattern" : "edge", "marker-end": "url(#arrow)",
      }, svg("title", {}, title));
      path.addEventListener("click", () => this.onEdge(edge));
      this.edges.set(JSON.stringify([edge.origin, edge.node]), path);
      return path;
    });
    const nodes = graph.nodes.map((node) => this.#node(node, open));
    const entry = graph.entry && svg("circle", {
      class: "entry", cx: graph.entry.x + graph.entry.width / 2 - 8, cy: graph.entry.y, r: 8,
    }, svg("title", {}, "calls of the router"));
    this.element.replaceChildren(...[svg("defs", {}, arrow), ...edges, entry, ...nodes].filter(Boolean));
  }

  #node(node, open) {
    const [left, top] = [node.x - node.width / 2, node.y - node.height / 2];
    const parts = {
      mark: svg("text", { class: "mark", x: left + 12, y: top + 25 }),
      rate: svg("text", { class: "figure", x: left + 12, y: top + 56 }),
      line: svg("polyline", { class: "line" }),
    };
    const name = node.name.length > 34 ? `${node.name.slice(0, 33)}…` : node.name;
    const group = svg("g", {
      class: "node", tabindex: 0, role: "button", "aria-label": node.name,
      onclick: () => open(node.name),
      onkeydown: (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          open(node.name);
        }
      },
    },
    svg("rect", {
      x: left, y: top, width: node.width, height: node.height, rx: 8,
      class: node.reached ? "box" : "box lost",
    }),
    parts.line,
    parts.mark,
    svg("text", { class: "name", x: left + 28, y: top + 24 }, name),
    svg("text", { class: "tag", x: left + 12, y: top + 41 }, node.tag),
    parts.rate);
    this.nodes.set(node.name, { group, parts, node });
    return group;
  }

  /** Show new figures. */
  update(figures) {
    for (const [name, { group, parts, node }] of this.nodes) {
      const told = figures.nodes[name];
      const state = stateOf(told);
      group.setAttribute("class", `node ${state}${group.classList.contains("dim") ? " dim" : ""}`);
      group.setAttribute("aria-label", `${name}, ${state}`);
      parts.mark.textContent = MARKS[state];
      if (!told) continue;
      const extra = told.queued ? `  ${told.queued} waiting` : "";
      const failed = told.failures ? `  ${told.failures} failed` : "";
      parts.rate.textContent = `${perSecond(told.rate)}  ${duration(told.p99)}${extra}${failed}`;
      parts.line.setAttribute("points", lineOf(told.line ?? [], node));
    }
    for (const path of this.edges.values()) path.removeAttribute("data-load");
    for (const edge of figures.edges) {
      const path = this.edges.get(JSON.stringify([edge.origin, edge.node]));
      if (path) path.firstChild.textContent = `${edge.origin} → ${edge.node}: ${perSecond(edge.rate)}, ${edge.count} since the page looks`;
      if (path && edge.rate > 0) {
        path.setAttribute("data-load", String(Math.min(4, Math.ceil(Math.log10(edge.rate + 1)))));
      }
    }
  }

  /** Dim all nodes but those whose names have the text. Returns the names that have it. */
  find(text) {
    const wanted = text.trim().toLowerCase();
    const found = [];
    for (const [name, { group }] of this.nodes) {
      const has = name.toLowerCase().includes(wanted);
      group.classList.toggle("dim", Boolean(wanted) && !has);
      if (wanted && has) found.push(name);
    }
    return found;
  }

  /** Show the whole graph. */
  all() {
    this.view = { x: 0, y: 0, width: this.graph.width, height: this.graph.height };
    this.#apply();
  }

  /** Show less around the middle, or around a point of the picture. */
  zoom(factor, point) {
    const { view } = this;
    const at = point ?? { x: view.x + view.width / 2, y: view.y + view.height / 2 };
    const width = Math.min(this.graph.width * 4, Math.max(80, view.width * factor));
    const share = width / view.width;
    this.view = {
      x: at.x - (at.x - view.x) * share,
      y: at.y - (at.y - view.y) * share,
      width,
      height: view.height * share,
    };
    this.#apply();
  }

  /** Move by a share of what is seen. */
  pan(x, y) {
    this.view.x += x * this.view.width;
    this.view.y += y * this.view.height;
    this.#apply();
  }

  #apply() {
    const { x, y, width, height } = this.view;
    this.element.setAttribute("viewBox", `${x} ${y} ${width} ${height}`);
  }

  #listen() {
    const { element } = this;
    element.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = element.getBoundingClientRect();
      const scale = Math.max(this.view.width / box.width, this.view.height / box.height);
      const middle = { x: this.view.x + this.view.width / 2, y: this.view.y + this.view.height / 2 };
      this.zoom(event.deltaY > 0 ? 1.15 : 1 / 1.15, {
        x: middle.x + (event.clientX - box.x - box.width / 2) * scale,
        y: middle.y + (event.clientY - box.y - box.height / 2) * scale,
      });
    }, { passive: false });
    let from = null;
    element.addEventListener("pointerdown", (event) => {
      if (!event.target.closest(".node")) from = { x: event.clientX, y: event.clientY };
    });
    element.addEventListener("pointermove", (event) => {
      if (!from) return;
      const box = element.getBoundingClientRect();
      this.pan((from.x - event.clientX) / box.width, (from.y - event.clientY) / box.height);
      from = { x: event.clientX, y: event.clientY };
    });
    for (const end of ["pointerup", "pointerleave"]) {
      element.addEventListener(end, () => { from = null; });
    }
  }
}

// The line of the last 15 minutes, in the right half of a node.
const lineOf = (values, node) => {
  if (values.length < 2) return "";
  const most = Math.max(...values, 1e-9);
  const [left, width] = [node.x, node.width / 2 - 12];
  const [bottom, height] = [node.y + 12, 18];
  return values
    .map((value, number) => {
      const x = left + (width * number) / (values.length - 1);
      return `${x.toFixed(1)},${(bottom - (height * value) / most).toFixed(1)}`;
    })
    .join(" ");
};
