// Sortable tables, a filter for long ones, and the values of curves. Without it everything can still be read.

const make = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

// ---- Tables

const sortable = (table) => {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  const isEmpty = (text) => text === "" || text === "—";
  headings.forEach((heading, column) => {
    const button = make("button", { type: "button" }, ...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const now = heading.getAttribute("aria-sort");
      const next = now === "ascending" ? "descending" : now === "descending" ? null : "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      let rows = original;
      if (next) {
        heading.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        const keys = new Map(original.map((row) => {
          const cell = row.cells[column];
          return [row, cell.dataset.key ?? cell.textContent.trim()];
        }));
        rows = [...original].sort((a, b) => {
          const x = keys.get(a), y = keys.get(b);
          if (isEmpty(x) || isEmpty(y)) return isEmpty(x) - isEmpty(y);
          const numeric = Number(x) - Number(y);
          return sign * (Number.isNaN(numeric) ? x.localeCompare(y, undefined, { numeric: true }) : numeric);
        });
      }
      body.append(...rows);
    });
  });
};

const filterable = (table) => {
  const rows = [...table.tBodies[0].rows];
  const words = (row) => [...row.cells].filter((cell) => !cell.classList.contains("number"));
  const texts = rows.map((row) => words(row).map((cell) => cell.textContent).join(" ").toLowerCase());
  const input = make("input", { type: "search" });
  const count = make("span", { role: "status", class: "soft" });
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, index) => {
      row.hidden = !wanted.every((word) => texts[index].includes(word));
      shown += !row.hidden;
    });
    count.textContent = wanted.length ? `${shown} of ${rows.length} rows` : "";
  });
  table.closest(".scroll").before(make("div", { class: "filter" }, make("label", {}, "Show rows with ", input), count));
};

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("table.long").forEach(filterable);

// ---- Curves

const epochsOf = (curve) =>
  typeof curve.epochs === "number" ? Array.from({ length: curve.epochs }, (_, index) => index + 1) : curve.epochs;

const readable = (value, unit) => (unit ? value.toFixed(2) : Number(value.toPrecision(4)).toString());

const drawCursor = (svg) => {
  const space = "http://www.w3.org/2000/svg";
  const group = document.createElementNS(space, "g");
  group.setAttribute("aria-hidden", "true");
  svg.append(group);
  const shape = (name, attributes) => {
    const element = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    group.append(element);
  };
  return { group, shape };
};

const plot = (place) => {
  const svg = place.querySelector("svg");
  const data = JSON.parse(place.querySelector("script").textContent);
  if (!data.panels.some((panel) => panel.curves.length)) return;
  const [width, height] = data.size;
  const { group, shape } = drawCursor(svg);
  const values = make("div", { class: "values", hidden: "" });
  place.append(values);

  const at = (panel, epoch) =>
    panel.curves
      .map((curve) => {
        const index = epochsOf(curve).indexOf(epoch);
        if (index < 0) return null;
        const [mean, low, high] = [curve.mean, curve.low, curve.high].map(
          (values) => values && readable(values[index], curve.unit));
        return { curve, mean: curve.mean[index], text: `${mean}${curve.unit}${low ? ` (${low} to ${high})` : ""}` };
      })
      .filter(Boolean)
      .sort((a, b) => a.mean - b.mean);

  const heading = (panel, epoch) => {
    const steps = panel.steps ? `, iteration ${Math.round(epoch * panel.steps).toLocaleString("en")}` : "";
    return `epoch ${epoch}${steps}`;
  };

  const show = (panel, epoch) => {
    const rows = at(panel, epoch);
    const [left, top, right, bottom] = panel.box;
    const x = panel.x[0] + panel.x[1] * epoch;
    group.replaceChildren();
    shape("line", { x1: x, x2: x, y1: top, y2: bottom, style: "stroke: var(--ink); stroke-width: .8" });
    for (const { curve, mean } of rows) {
      const [kind, offset, factor] = curve.y;
      const y = offset + factor * (kind === "log" ? Math.log10(mean) : mean);
      if (y >= top && y <= bottom) shape("circle", { cx: x, cy: y, r: 2.6, style: `fill: ${curve.colour}` });
    }
    const table = make("table");
    for (const { curve, text } of rows) {
      const row = table.insertRow();
      const seeds = curve.seeds > 1 ? ` (n = ${curve.seeds})` : "";
      row.insertCell().append(make("i", { style: `background: ${curve.colour}` }), curve.label + seeds);
      row.insertCell().append(text);
    }
    values.replaceChildren(make("strong", {}, heading(panel, epoch)), table);
    values.hidden = false;
    const scale = svg.clientWidth / width;
    const room = place.clientWidth - values.offsetWidth;
    const beside = x < (left + right) / 2 ? x * scale + 14 : x * scale - 14 - values.offsetWidth;
    values.style.left = `${Math.max(0, Math.min(room, beside))}px`;
    values.style.top = `${top * scale + 6}px`;
  };

  const hide = () => {
    values.hidden = true;
    group.replaceChildren();
  };

  const nearest = (panel, x) => {
    const epochs = [...new Set(panel.curves.flatMap(epochsOf))];
    const wanted = (x - panel.x[0]) / panel.x[1];
    return epochs.reduce((best, epoch) => (Math.abs(epoch - wanted) < Math.abs(best - wanted) ? epoch : best));
  };

  place.addEventListener("pointermove", (event) => {
    const bounds = svg.getBoundingClientRect();
    const x = ((event.clientX - bounds.left) * width) / bounds.width;
    const y = ((event.clientY - bounds.top) * height) / bounds.height;
    const panel = data.panels.find(({ box, curves }) =>
      curves.length && x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3]);
    if (panel) show(panel, nearest(panel, x));
    else hide();
  });
  place.addEventListener("pointerleave", hide);
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  if (!("slider" in place.dataset)) return;
  // For keyboards and screen readers: the same values at a chosen epoch.
  const panel = data.panels[0];
  const epochs = [...new Set(panel.curves.flatMap(epochsOf))].sort((a, b) => a - b);
  const slider = make("input", { type: "range", min: 0, max: epochs.length - 1, value: epochs.length - 1 });
  const said = make("output");
  const update = () => {
    const epoch = epochs[slider.value];
    said.textContent = `${epoch}`;
    const spoken = at(panel, epoch).map(({ curve, text }) => `${curve.label} ${text}`);
    slider.setAttribute("aria-valuetext", `${heading(panel, epoch)}: ${spoken.join("; ")}`);
  };
  slider.addEventListener("input", () => { update(); show(panel, epochs[slider.value]); });
  slider.addEventListener("focus", () => show(panel, epochs[slider.value]));
  slider.addEventListener("blur", hide);
  update();
  place.after(make("div", { class: "reader" }, make("label", {}, "Values at epoch ", said), slider));
  slider.setAttribute("aria-label", `Values at epoch, ${place.dataset.slider}`);
};

document.querySelectorAll(".plot").forEach(plot);

// ---- Links into folded parts, and everything unfolded on paper

const reveal = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const details = target && target.closest("details");
  if (details) { details.open = true; target.scrollIntoView(); }
};
addEventListener("hashchange", reveal);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
reveal();

// ---- How old the page is

const age = () => {
  const written = document.querySelector("time");
  const minutes = Math.floor((Date.now() - new Date(written.dateTime)) / 60000);
  const [count, unit] =
    minutes < 120 ? [minutes, "minute"] : minutes < 2880 ? [Math.floor(minutes / 60), "hour"] : [Math.floor(minutes / 1440), "day"];
  const ago = new Intl.RelativeTimeFormat("en", { numeric: "always" }).format(-Math.max(0, count), unit);
  written.textContent = `${written.textContent.split(" (")[0]} (${ago})`;
};
age();
setInterval(age, 30000);
