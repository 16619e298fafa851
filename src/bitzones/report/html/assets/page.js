"use strict";
// Charts, the switch between light and dark, and tables that can be sorted, copied and downloaded. Nothing is fetched, nothing is evaluated.
(() => {
  const root = document.documentElement;
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const chosen = {};
  const said = document.getElementById("said");
  const query = window.matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  window.bitzonesDrawn = 0;

  const say = (text) => { said.textContent = text; setTimeout(() => { said.textContent = ""; }, 2500); };

  // --- theme ---------------------------------------------------------------------------------------------------------------------------
  const stored = () => { try { return localStorage.getItem("bitzones-theme"); } catch { return null; } };
  const isDark = () => !printing && root.dataset.theme === "dark";
  const setTheme = (theme) => {
    root.dataset.theme = theme;
    const button = document.getElementById("theme");
    button.setAttribute("aria-pressed", String(theme === "dark"));
  };

  const colors = () => {
    const text = isDark() ? "#e8ebef" : "#1b1f24", line = isDark() ? "#59626d" : "#c9d1d9";
    return {
      background: "transparent", font: "system-ui, sans-serif",
      title: { color: text }, style: { "group-title": { fill: text }, "guide-label": { fill: text }, "guide-title": { fill: text } },
      axis: { labelColor: text, titleColor: text, gridColor: line, gridOpacity: 0.5, domainColor: text, tickColor: text, titleFontWeight: "normal" },
      legend: { labelColor: text, titleColor: text }, text: { color: text, fill: text }, rule: { color: text }, tick: { color: text },
      view: { stroke: null },
    };
  };

  // --- charts --------------------------------------------------------------------------------------------------------------------------
  // One definition serves paper and page: here it gets the width that there is.
  const CELL = { least: 15, most: 34 };
  const fitMap = (spec, width) => {
    const layers = Math.max(...spec.vconcat[0].data.values.map((row) => row.layer)) + 1;
    const room = Math.max(200, width - 110);
    const most = Math.max(8, Math.floor(room / CELL.least));
    const per = Math.ceil(layers / Math.ceil(layers / most)); // blocks of one length
    const step = Math.max(CELL.least, Math.min(CELL.most, Math.floor(room / per)));
    spec.params[0].value = per;
    spec.vconcat[0].spec.width.step = step;
    spec.vconcat[0].spec.height.step = Math.max(20, Math.min(26, step));
    spec.title.fontSize = 13;
  };
  const fitPanels = (spec, width) => {
    const first = spec.concat[0];
    if (spec.columns > 1) { spec.columns = Math.max(1, Math.floor(width / (first.width + 90))); return; }
    const noted = first.layer && first.layer.some((layer) => (layer.encoding.x || {}).value > 0) ? 150 : 0;
    const columns = Math.min(spec.concat.length, Math.max(1, Math.floor(width / 400)));
    const each = Math.max(150, Math.min(520, Math.floor(width / columns) - 110 - noted));
    spec.columns = columns;
    for (const panel of spec.concat) {
      const before = panel.width;
      panel.width = each;
      if (typeof panel.height === "number") panel.height = 240;
      for (const layer of panel.layer || []) {
        const x = (layer.encoding || {}).x;
        if (x && x.value > before) x.value = each + (x.value - before);
      }
    }
  };
  const draw = async (name) => {
    const place = document.getElementById(`chart-${name}`);
    const spec = structuredClone(charts[name][chosen[name] || 0]);
    const width = place.clientWidth;
    if (spec.vconcat) fitMap(spec, width); else fitPanels(spec, width);
    spec.config = { ...spec.config, ...colors(), legend: { ...(spec.config || {}).legend, ...colors().legend } };
    const tooltip = { theme: isDark() ? "dark" : "light", disableDefaultStyle: false };
    await window.vegaEmbed(place, spec, { actions: false, ast: true, renderer: "svg", tooltip });
    for (const svg of place.querySelectorAll("svg")) svg.setAttribute("aria-hidden", "true"); // the figure's own label speaks
    window.bitzonesDrawn += 1;
  };
  // Vega's code runs on one thread: the first chart is drawn at once, the others when they come near.
  const seen = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) show(entry.target.dataset.chart);
  }, { rootMargin: "600px" });
  const show = (name) => { if (!seen.has(name)) { seen.add(name); return draw(name); } return undefined; };
  const redraw = () => Promise.all([...seen].map(draw));

  setTheme(stored() || (query.matches ? "dark" : "light"));
  for (const place of document.querySelectorAll(".chart")) watcher.observe(place);
  for (const select of document.querySelectorAll("select[data-chart]")) {
    select.addEventListener("change", () => { chosen[select.dataset.chart] = Number(select.value); draw(select.dataset.chart); });
  }
  document.getElementById("theme").addEventListener("click", () => {
    setTheme(isDark() ? "light" : "dark");
    try { localStorage.setItem("bitzones-theme", root.dataset.theme); } catch { /* a page on disk may keep nothing */ }
    redraw();
  });
  let width = window.innerWidth, timer;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    clearTimeout(timer);
    timer = setTimeout(redraw, 150);
  });
  window.addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details.fold")) fold.open = true;
    printing = true;
    for (const name of Object.keys(charts)) show(name);
    redraw();
  });
  window.addEventListener("afterprint", () => { printing = false; redraw(); });

  // --- tables --------------------------------------------------------------------------------------------------------------------------
  const LONG = 60;
  const rowsOf = (table) => [...table.rows].map((row) => [...row.cells].map((cell) => cell.dataset.text || cell.textContent.trim()));
  const csv = (table) => rowsOf(table).map((row) => row.map((text) => `"${text.replaceAll('"', '""')}"`).join(",")).join("\r\n") + "\r\n";
  const tsv = (table) => rowsOf(table).map((row) => row.map((text) => text.replaceAll(/\s+/g, " ")).join("\t")).join("\n") + "\n";
  // A cell's first number, so that "0.021 [0.019, 0.024]" sorts by 0.021; what has none sorts by its text, after all numbers.
  const number = (text) => {
    const match = text.replaceAll(",", "").match(/^[<p=\s]*([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)/i);
    return match ? Number(match[1]) : NaN;
  };
  const compare = (a, b) => {
    const x = number(a), y = number(b);
    if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
    return Number.isNaN(x) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  };
  const sort = (table, column) => {
    const heads = [...table.tHead.rows[0].cells];
    const up = heads[column].getAttribute("aria-sort") !== "ascending";
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    const text = (row) => row.cells[column].textContent.trim();
    rows.sort((a, b) => (up ? 1 : -1) * compare(text(a), text(b)));
    table.tBodies[0].append(...rows);
  };
  const copy = async (text) => {
    try { await navigator.clipboard.writeText(text); } catch {
      const area = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(area); area.select(); document.execCommand("copy"); area.remove();
    }
    say("Copied");
  };
  const download = (text, name) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv" })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const button = (label, title, act) => {
    const made = Object.assign(document.createElement("button"), { type: "button", textContent: label, title });
    made.addEventListener("click", act);
    return made;
  };
  document.querySelectorAll(".tables table").forEach((table, index) => {
    const section = table.closest("section");
    const name = `${section.id}-${index + 1}.csv`;
    const wrap = Object.assign(document.createElement("div"), { className: "wrap", tabIndex: 0 });
    wrap.setAttribute("role", "region");
    wrap.setAttribute("aria-label", `${section.getAttribute("aria-label")}: table ${index + 1}`);
    table.replaceWith(wrap);
    wrap.append(table);
    const tools = Object.assign(document.createElement("div"), { className: "tools" });
    tools.append(button("Copy", "Copy this table", () => copy(tsv(table))), button("CSV", "Download this table as CSV", () => download(csv(table), name)));
    wrap.before(tools);
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const label = head.textContent.trim() || "name";
      const sorter = button(label, `Sort by ${label}`, () => sort(table, column));
      head.dataset.text = label;
      head.replaceChildren(sorter);
    });
    for (const cell of table.querySelectorAll("td")) if (cell.textContent.length > LONG) cell.classList.add("long");
  });
})();
