"use strict";
// Charts of lines with bands. A legend switches lines on and off and shows their values at the
// cursor; the cursor follows the pointer and the arrow keys, and is a slider to assistive technology.
(() => {
  const HEIGHT = 300;
  const MARGIN = { top: 10, right: 14, bottom: 42, left: 58 };
  const COLOURS = 7;
  const DASHES = ["", "7 4", "8 3 2 3", "2 3", "11 4", "4 2", "9 3 2 3 2 3"];
  const MARKS = [
    (r) => `M ${-r} 0 a ${r} ${r} 0 1 0 ${2 * r} 0 a ${r} ${r} 0 1 0 ${-2 * r} 0 Z`,
    (r) => `M ${-r} ${-r} H ${r} V ${r} H ${-r} Z`,
    (r) => `M 0 ${-r} L ${r} ${r} H ${-r} Z`,
    (r) => `M 0 ${-r * 1.3} L ${r * 1.3} 0 L 0 ${r * 1.3} L ${-r * 1.3} 0 Z`,
  ];

  const look = (index) => ({
    colour: `series-${index % COLOURS}`,
    dash: DASHES[(index + Math.floor(index / COLOURS)) % DASHES.length],
    mark: MARKS[(index + Math.floor(index / COLOURS)) % MARKS.length],
  });

  const ticksOf = (low, high, log) => {
    if (log) {
      const first = Math.ceil(Math.log10(low)), last = Math.floor(Math.log10(high));
      if (last - first >= 1) {
        const step = Math.ceil((last - first + 1) / 6);
        return Array.from({ length: Math.floor((last - first) / step) + 1 }, (_, i) => 10 ** (first + i * step));
      }
    }
    const rough = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => power * factor >= rough);
    const found = [];
    for (let at = Math.ceil(low / step); at * step <= high * (1 + 1e-12); at += 1) found.push(Number((at * step).toPrecision(12)));
    return found;
  };

  const tickText = (value) => {
    const size = Math.abs(value);
    return value !== 0 && (size >= 1e5 || size < 1e-3) ? value.toExponential().replace("+", "") : String(value);
  };

  // The last place on the x axis at which at least half of the lines have a value.
  const fullest = (stops, lines) => {
    const count = (stop) => lines.filter((line) => {
      const index = line.x.indexOf(stop);
      return index >= 0 && line.y[index] !== null && line.y[index] !== undefined;
    }).length;
    const counts = stops.map(count);
    return stops.findLast((_, place) => 2 * counts[place] >= lines.length) ?? null;
  };

  const scale = (low, high, start, end, log) => {
    const place = log ? Math.log10 : (value) => value;
    const span = place(high) - place(low) || 1;
    return (value) => start + (end - start) * (place(Math.max(value, log ? low : -Infinity)) - place(low)) / span;
  };

  const rangeOf = (series, log) => {
    const values = series.flatMap((one) => [...one.y, ...one.low, ...one.high])
      .filter((value) => value !== null && (!log || value > 0));
    if (!values.length) return [log ? 0.1 : 0, 1];
    let low = Math.min(...values), high = Math.max(...values);
    if (log) {
      // A band that reaches down to zero would take all the room.
      low = Math.max(low, Math.min(...series.flatMap((one) => one.y).filter((value) => value > 0)) / 3);
      return low === high ? [low / 2, high * 2] : [low, high];
    }
    const pad = (high - low) * 0.04 || Math.abs(high) * 0.05 || 1;
    low -= pad;
    high += pad;
    return [low, high];
  };

  // Runs of neighbouring points that have all the values asked for.
  const pieces = (one, names) => {
    const found = [[]];
    for (const index of one.x.keys()) {
      if (names.every((name) => one[name][index] !== null && one[name][index] !== undefined)) found.at(-1).push(index);
      else if (found.at(-1).length) found.push([]);
    }
    return found.filter((piece) => piece.length);
  };

  const drawLine = (svg, one, x, y) => {
    const { colour, dash, mark } = look(one.index);
    const group = report.drawn("g", { class: `line ${colour}` });
    for (const piece of pieces(one, ["low", "high"])) {
      const upper = piece.map((i) => `${x(one.x[i])},${y(one.high[i])}`);
      const lower = piece.map((i) => `${x(one.x[i])},${y(one.low[i])}`).reverse();
      group.append(report.drawn("polygon", { class: "band", points: [...upper, ...lower].join(" ") }));
    }
    for (const piece of pieces(one, ["y"])) {
      const points = piece.map((i) => `${x(one.x[i])},${y(one.y[i])}`).join(" ");
      group.append(report.drawn("polyline", { points, "stroke-dasharray": dash }));
      const every = Math.ceil(piece.length / 12);
      for (const i of piece.filter((_, place) => place % every === 0)) {
        group.append(report.drawn("path", { class: "mark", d: mark(3), transform: `translate(${x(one.x[i])} ${y(one.y[i])})` }));
      }
    }
    svg.append(group);
  };

  const drawAxes = (svg, spec, x, y, ranges, width, log) => {
    const bottom = HEIGHT - MARGIN.bottom;
    for (const value of ticksOf(...ranges.y, log)) {
      svg.append(report.drawn("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }));
      svg.append(report.drawn("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, tickText(value)));
    }
    const ticks = spec.ticks.length ? spec.ticks.map((_, index) => index) : ticksOf(...ranges.x, false).filter(Number.isInteger);
    for (const value of ticks) {
      const text = spec.ticks.length ? spec.ticks[value] : tickText(value);
      svg.append(report.drawn("text", { x: x(value), y: bottom + 17, "text-anchor": "middle" }, text));
    }
    svg.append(report.drawn("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom }));
    svg.append(report.drawn("text", { class: "title", x: (MARGIN.left + width - MARGIN.right) / 2, y: HEIGHT - 5, "text-anchor": "middle" }, spec.x_title));
    svg.append(report.drawn("text", { class: "title", transform: `translate(12 ${(MARGIN.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, spec.y_title));
  };

  const valueAt = (one, at) => {
    const index = one.x.indexOf(at);
    if (index < 0 || one.y[index] === null || one.y[index] === undefined) return null;
    const high = one.high[index];
    const error = high === null || high === undefined ? null : high - one.y[index];
    const count = one.n ? ` (n ${one.n[index]})` : "";
    return report.spread(one.y[index], error) + count;
  };

  // A chart of { title, x_title, y_title, ticks, lines: [{ name, x, y, low, high, n, off }] } in `host`.
  report.chart = (host, spec, log = false) => {
    const lines = spec.lines.map((line, index) => ({ ...line, index, shown: !line.off }));
    const name = (at) => `${spec.x_title} ${spec.ticks.length ? spec.ticks[at] : at}`;
    const svg = report.drawn("svg", { "aria-hidden": "true", focusable: "false", height: HEIGHT });
    const slider = report.element("div", { class: "cursor", role: "slider", tabindex: "0", "aria-label": `${spec.title}: ${spec.x_title}` });
    const plot = report.element("div", { class: "plot" }, svg, slider);
    const readout = report.element("p", { class: "readout" });
    const legend = report.element("ul", { class: "legend" });
    let stops = [], at = null, x = null, y = null, width = 0;

    const values = new Map();
    for (const line of lines) {
      const box = report.element("input", { type: "checkbox" });
      box.checked = line.shown;
      box.addEventListener("change", () => { line.shown = box.checked; draw(); });
      const { colour, dash, mark } = look(line.index);
      const swatch = report.drawn("svg", { "aria-hidden": "true", focusable: "false", width: 30, height: 12, class: `line ${colour}` });
      swatch.append(report.drawn("polyline", { points: "0,6 30,6", "stroke-dasharray": dash }));
      swatch.append(report.drawn("path", { class: "mark", d: mark(3), transform: "translate(15 6)" }));
      const value = report.element("span", { class: "value" });
      values.set(line, value);
      legend.append(report.element("li", {}, report.element("label", {}, box, swatch, report.element("span", {}, line.name)), value));
    }

    const moveTo = (value) => {
      at = value;
      for (const old of svg.querySelectorAll(".at")) old.remove();
      const shown = lines.filter((line) => line.shown);
      const told = [];
      for (const line of lines) {
        const text = at === null ? null : valueAt(line, at);
        values.get(line).textContent = line.shown ? text ?? "–" : "";
        if (line.shown && text) told.push(`${line.name} ${text}`);
      }
      readout.textContent = at === null ? "Nothing to show" : name(at);
      if (at === null) return;
      svg.append(report.drawn("line", { class: "at", x1: x(at), x2: x(at), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }));
      for (const line of shown) {
        const index = line.x.indexOf(at);
        const height = index < 0 ? null : line.y[index];
        if (height === null || height === undefined || (log && height <= 0)) continue;
        svg.append(report.drawn("circle", { class: `at ${look(line.index).colour}`, cx: x(at), cy: y(height), r: 4.5 }));
      }
      const place = stops.indexOf(at);
      slider.setAttribute("aria-valuemin", "0");
      slider.setAttribute("aria-valuemax", String(stops.length - 1));
      slider.setAttribute("aria-valuenow", String(place));
      slider.setAttribute("aria-valuetext", `${name(at)}: ${told.join("; ")}`);
    };

    const draw = () => {
      width = Math.max(plot.clientWidth, 240);
      svg.setAttribute("width", width);
      svg.replaceChildren();
      const shown = lines.filter((line) => line.shown);
      stops = [...new Set(shown.flatMap((line) => line.x))].sort((a, b) => a - b);
      const ranges = { x: stops.length ? [stops[0], stops.at(-1)] : [0, 1], y: rangeOf(shown, log) };
      x = scale(...ranges.x, MARGIN.left + 8, width - MARGIN.right - 8, false);
      y = scale(...ranges.y, HEIGHT - MARGIN.bottom, MARGIN.top, log);
      drawAxes(svg, spec, x, y, ranges, width, log);
      for (const line of shown) drawLine(svg, line, x, y);
      moveTo(stops.includes(at) ? at : fullest(stops, shown));
    };

    const follow = (event) => {
      if (!stops.length) return;
      const here = event.clientX - plot.getBoundingClientRect().left;
      moveTo(stops.reduce((best, stop) => (Math.abs(x(stop) - here) < Math.abs(x(best) - here) ? stop : best)));
    };
    slider.addEventListener("pointermove", follow);
    slider.addEventListener("pointerdown", follow);
    slider.addEventListener("keydown", (event) => {
      const place = stops.indexOf(at), last = stops.length - 1;
      const next = { ArrowRight: place + 1, ArrowUp: place + 1, ArrowLeft: place - 1, ArrowDown: place - 1, PageUp: place + 10, PageDown: place - 10, Home: 0, End: last }[event.key];
      if (next === undefined || !stops.length) return;
      event.preventDefault();
      moveTo(stops[Math.min(Math.max(next, 0), last)]);
    });

    const table = report.element("details", {}, report.element("summary", {}, "The same as a table"));
    table.addEventListener("toggle", () => {
      for (const old of table.querySelectorAll(".scroll")) old.remove();
      if (!table.open) return;
      const shown = lines.filter((line) => line.shown);
      const rows = stops.map((stop) => [spec.ticks.length ? spec.ticks[stop] : String(stop), ...shown.map((line) => valueAt(line, stop) ?? "–")]);
      table.append(report.tableOf([spec.x_title, ...shown.map((line) => line.name)], rows, spec.title));
    });
    host.replaceChildren(plot, readout, legend, table);
    let drawnAt = 0;
    // Also draws when a hidden chart is first shown.
    new ResizeObserver(() => {
      if (plot.clientWidth && plot.clientWidth !== drawnAt) { drawnAt = plot.clientWidth; draw(); }
    }).observe(plot);
  };

  for (const host of document.querySelectorAll("[data-chart]")) {
    const spec = report.data.charts.find((one) => one.id === host.dataset.chart);
    if (spec) report.chart(host, spec);
  }
})();
