"use strict";
// What the other scripts share. Records reach the page as text only: no script here sets HTML.
const report = { data: JSON.parse(document.getElementById("data").textContent) };

report.element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
};

report.drawn = (name, attributes = {}, text = "") => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
};

// Four significant digits, an exponent where plain ones would be long.
report.number = (value) => {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(2);
  if (Number.isInteger(value)) return String(value);
  const digits = Math.min(Math.max(3 - Math.floor(Math.log10(size)), 0), 6);
  return value.toFixed(digits);
};

// A number with its error, which keeps two significant digits.
report.spread = (value, error) => {
  if (error === null || error === undefined || !(error > 0)) return report.number(value);
  const digits = 1 - Math.floor(Math.log10(error));
  if (digits < 0 || digits > 8 || Math.abs(value) >= 1e6) return `${report.number(value)} ± ${report.number(error)}`;
  return `${value.toFixed(digits)} ± ${error.toFixed(digits)}`;
};

// Ascending or descending by a key; what has none comes last either way. Equals keep their order.
report.sorted = (items, key, direction) => {
  const told = items.map((item) => [key(item), item]);
  const isMissing = (value) => value === null || value === undefined || value === "" || Number.isNaN(value);
  told.sort(([a], [b]) => {
    if (isMissing(a) || isMissing(b)) return Number(isMissing(a)) - Number(isMissing(b));
    const order = typeof a === "number" && typeof b === "number"
      ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return direction * order;
  });
  return told.map(([, item]) => item);
};

// none -> ascending -> descending -> none, told to assistive technology on the heading.
report.turn = (head) => {
  const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
  for (const other of head.parentElement.children) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", next);
  return { none: 0, ascending: 1, descending: -1 }[next];
};

report.tableOf = (heads, rows, caption) => {
  const table = report.element("table", {}, report.element("caption", {}, caption));
  table.append(report.element("thead", {}, report.element("tr", {},
    ...heads.map((head, place) => report.element("th", { scope: "col", class: place ? "number" : null }, head)))));
  table.append(report.element("tbody", {}, ...rows.map((row) => report.element("tr", {},
    report.element("th", { scope: "row" }, row[0]),
    ...row.slice(1).map((text) => report.element("td", { class: "number" }, text))))));
  return report.element("div", { class: "scroll", role: "group", tabindex: "0", "aria-label": caption }, table);
};
