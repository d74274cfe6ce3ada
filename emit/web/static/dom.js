// Elements of the page. Every text goes in as a text node, so no name and no stack trace is markup.

const SVG = "http://www.w3.org/2000/svg";

const fill = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};

/** Make an HTML element. */
export const html = (name, attributes, ...children) =>
  fill(document.createElement(name), attributes, children);

/** Make an SVG element. */
export const svg = (name, attributes, ...children) =>
  fill(document.createElementNS(SVG, name), attributes, children);

/** Replace everything in an element. */
export const refill = (element, ...children) => {
  element.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
};

/** Ask the server. Throws an Error with the server's words. */
export const ask = async (path, body) => {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  const answer = await fetch(path, options);
  const told = await answer.json().catch(() => ({ error: `HTTP ${answer.status}` }));
  if (!answer.ok) throw new Error(told.error ?? `HTTP ${answer.status}`);
  return told;
};

/** Tell a rate: messages a second. */
export const perSecond = (rate) => {
  if (!rate) return "0/s";
  if (rate < 10) return `${rate.toFixed(1)}/s`;
  return rate < 10000 ? `${Math.round(rate)}/s` : `${(rate / 1000).toFixed(0)}k/s`;
};

/** Tell a duration in seconds. */
export const duration = (seconds) => {
  if (!seconds) return "–";
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(0)} µs`;
  return seconds < 10 ? `${(seconds * 1e3).toFixed(1)} ms` : `${seconds.toFixed(0)} s`;
};

/** Tell a time of day, in seconds since the epoch. */
export const when = (at) => (at ? new Date(at * 1000).toLocaleString() : "–");

/** Tell bytes. */
export const bytes = (count) => (count ? `${(count / 1e6).toFixed(0)} MB` : "–");

/** Ask a question in a dialog. Resolves to true for yes. */
export const confirm = (text, yes) => new Promise((resolve) => {
  const dialog = document.getElementById("question");
  document.getElementById("question-text").textContent = text;
  const button = document.getElementById("question-yes");
  button.textContent = yes;
  const done = (answer) => () => {
    dialog.close();
    resolve(answer);
  };
  button.onclick = done(true);
  document.getElementById("question-no").onclick = done(false);
  dialog.oncancel = () => resolve(false);
  dialog.showModal();
});
