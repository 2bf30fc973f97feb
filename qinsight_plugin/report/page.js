"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const SEVERITIES = ["slight", "moderate", "obvious", "serious", "catastrophic"];
const SHADES = ["#9ecae1", "#6baed6", "#3182bd", "#08519c", "#08306b"];
const [BIN, DISTORTION, SEVERITY, FORMAT, ACCEPTED, COUNT] = [0, 1, 2, 3, 4, 5];
const at = (id) => document.getElementById(id);
const number = (n) => n.toLocaleString("en");
const fixed = (x, digits = 2) => (x === null ? "-" : x.toFixed(digits));
const signed = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(2);
const interval = ([value, low, high]) => `${signed(value)} [${signed(low)}, ${signed(high)}]`;
const verdict = (accepted) => (accepted === null ? "not judged" : accepted ? "accepted" : "rejected");
const distortion = (name) => (name === null ? "not looked for" : name || "none found");

// Text only ever becomes a text node: names of files may hold markup.
function make(tag, attributes = {}, ...children) {
  const isSvg = ["svg", "rect", "text", "line", "polyline", "title"].includes(tag);
  const node = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function showFigures() {
  at("about").textContent = data.about;
  const figures = data.figures.map(([value, name]) =>
    make("div", { class: "figure" }, make("b", {}, value), make("span", {}, name)));
  at("figures").append(...figures);
}

const filters = {};
function addSelect(name, label, options) {
  if (options.length < 2) return;
  const select = make("select", { name }, make("option", { value: "" }, "any"));
  for (const option of options) select.append(make("option", { value: option }, option));
  select.addEventListener("change", draw);
  filters[name] = select;
  at("filters").append(make("label", {}, label, select));
}
function addNumber(name, label, value) {
  const input = make("input", { name, type: "number", step: "0.1", value });
  input.addEventListener("input", draw);
  filters[name] = input;
  at("filters").append(make("label", {}, label, input));
}
function addFilters() {
  const values = (column, shown) => [...new Set(data.cells.map((cell) => shown(cell[column])))].sort();
  addSelect("distortion", "what is wrong", values(DISTORTION, distortion));
  addSelect("severity", "at least", values(SEVERITY, (s) => s || "").some(Boolean) ? SEVERITIES : []);
  addSelect("format", "format", values(FORMAT, String));
  addSelect("verdict", "verdict", values(ACCEPTED, verdict));
  addNumber("low", "score from", data.low);
  addNumber("high", "to", data.high);
  const reset = make("button", { type: "reset" }, "all");
  at("filters").addEventListener("reset", () => setTimeout(draw));
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("filters").append(reset);
}
const chosen = (name) => (filters[name] ? filters[name].value : "");
const range = () => [
  chosen("low") === "" ? -Infinity : Number(chosen("low")),
  chosen("high") === "" ? Infinity : Number(chosen("high"))];
function passes(name, severity, format, accepted) {
  return (!chosen("distortion") || distortion(name) === chosen("distortion"))
    && (!chosen("severity") || SEVERITIES.indexOf(severity) >= SEVERITIES.indexOf(chosen("severity")))
    && (!chosen("format") || String(format) === chosen("format"))
    && (!chosen("verdict") || verdict(accepted) === chosen("verdict"));
}
const width = (data.high - data.low) / data.bins;
const centre = (bin) => data.low + (bin + 0.5) * width;
function cellPasses(cell) {
  const [low, high] = range();
  return centre(cell[BIN]) >= low && centre(cell[BIN]) <= high
    && passes(cell[DISTORTION], cell[SEVERITY], cell[FORMAT], cell[ACCEPTED]);
}
function rowPasses(row) {
  const [low, high] = range();
  return row.score >= low && row.score <= high && passes(row.distortion, row.severity, row.format, row.accepted);
}

function total(cells) {
  const counts = new Array(data.bins).fill(0);
  for (const cell of cells) counts[cell[BIN]] += cell[COUNT];
  return counts;
}
function drawHistogram(kept) {
  const all = total(data.cells), some = total(kept), old = data.drift ? data.drift.histogram : [];
  const sum = (counts) => counts.reduce((a, b) => a + b, 0) || 1;
  const scale = sum(all) / sum(old);
  const most = Math.max(1, ...all, ...old.map((count) => count * scale));
  const [W, H, left, bottom] = [1000, 190, 8, 24];
  const x = (bin) => left + (W - 2 * left) * bin / data.bins;
  const y = (count) => (H - bottom) * (1 - count / most);
  const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "histogram of the scores" });
  for (let bin = 0; bin < data.bins; bin++) {
    const words = `${(data.low + bin * width).toFixed(2)} to ${(data.low + (bin + 1) * width).toFixed(2)}: `
      + `${number(some[bin])} of ${number(all[bin])}`;
    for (const [counts, colour] of [[all, "var(--all)"], [some, "var(--bar)"]]) {
      const box = { x: x(bin) + 1, width: x(bin + 1) - x(bin) - 2, y: y(counts[bin]), height: H - bottom - y(counts[bin]) };
      svg.append(make("rect", { ...box, fill: colour }, make("title", {}, words)));
    }
  }
  if (old.length) {
    const points = old.flatMap((count, bin) => [[x(bin), y(count * scale)], [x(bin + 1), y(count * scale)]]);
    svg.append(make("polyline", { points: points.join(" "), fill: "none", stroke: "var(--old)", "stroke-width": 2 }));
  }
  for (let tick = 0; tick <= 8; tick++) {
    const words = (data.low + (data.high - data.low) * tick / 8).toFixed(1);
    const anchor = tick === 0 ? "start" : tick === 8 ? "end" : "middle";
    svg.append(make("text", { x: left + (W - 2 * left) * tick / 8, y: H - 6, "text-anchor": anchor }, words));
  }
  at("histogram").replaceChildren(svg);
  const line = old.length ? "; the line is the earlier run, of equal area" : "";
  at("shown").textContent = `${number(some.reduce((a, b) => a + b, 0))} of ${number(sum(all))} pictures with a score${line}`;
}

function drawDistortions(kept) {
  const counts = new Map();
  let everything = 0;
  for (const cell of kept) {
    const name = distortion(cell[DISTORTION]);
    if (!counts.has(name)) counts.set(name, new Array(SEVERITIES.length + 1).fill(0));
    counts.get(name)[SEVERITIES.indexOf(cell[SEVERITY]) + 1] += cell[COUNT];
    everything += cell[COUNT];
  }
  const rows = [...counts].map(([name, by]) => [name, by, by.reduce((a, b) => a + b, 0)]).sort((a, b) => b[2] - a[2]);
  at("distortions").replaceChildren(...rows.map(([name, by, sum]) => {
    const parts = by.map((count, index) => make("span", {
      style: `width: ${100 * count / everything}%; background: ${index ? SHADES[index - 1] : "var(--quiet)"}`,
      title: `${index ? SEVERITIES[index - 1] + " " : ""}${name}: ${number(count)}` }));
    return make("div", { class: "row" }, make("span", {}, name), make("div", { class: "track" }, ...parts),
      make("span", { class: "count" }, `${number(sum)} (${(100 * sum / everything).toFixed(1)} %)`));
  }));
}

function card(row) {
  const pictures = [row.thumbnail, row.map].filter(Boolean).map((src, index) =>
    make("img", { src, loading: "lazy", alt: index ? "quality map" : "picture" }));
  const words = make("div", { class: "words" });
  words.append(make("b", {}, fixed(row.score)), ` ${row.explanation ? row.explanation.replace(/^[^:]*: ?/, "") : ""} `);
  if (row.accepted !== null) words.append(make("span", { class: verdict(row.accepted) }, verdict(row.accepted)));
  for (const reason of row.reasons || []) words.append(make("div", { class: "quiet" }, reason));
  if (row.note) words.append(make("div", { class: "warning" }, row.note));
  words.append(make("div", { class: "name" }, `${row.source} (${row.width}×${row.height})`));
  return make("div", { class: "card" }, make("div", { class: pictures.length < 2 ? "pictures one" : "pictures" }, ...pictures), words);
}
function drawGalleries() {
  const isFiltered = Object.values(filters).some((filter) => filter.value !== filter.defaultValue && filter.value !== "");
  const unseen = data.of_each.filter((row) => !data.worst.some((other) => other.source === row.source));
  const worst = isFiltered ? [...data.worst, ...unseen].sort((a, b) => a.score - b.score) : data.worst;
  for (const [id, rows] of [["worst", worst], ["best", data.best]]) {
    const kept = rows.filter(rowPasses);
    at(id).replaceChildren(...(kept.length ? kept.map(card) : [make("p", { class: "quiet" }, "None of those that this page holds.")]));
  }
}

function table(head, rows) {
  const cells = (tag, row) => row.map((cell, i) => make(tag, i ? { class: "number" } : {}, String(cell)));
  return make("table", {}, make("tr", {}, ...cells("th", head)), ...rows.map((row) => make("tr", {}, ...cells("td", row))));
}
function showDrift() {
  const drift = data.drift;
  if (!drift) return;
  const section = at("drift");
  section.hidden = false;
  section.append(make("h2", {}, "Since the earlier run"));
  if (!drift.same_scorer) section.append(make("p", { class: "warning" },
    "Another scorer, or another version of it, gave the earlier scores: what changed may be the scorer and not the pictures."));
  const said = [`${number(drift.rows[0])} pictures before, ${number(drift.rows[1])} now.`];
  if (drift.mean) said.push(`Mean score ${interval(drift.mean)} (95 % interval); the distributions are ${fixed(drift.ks)} apart at most (Kolmogorov-Smirnov).`);
  if (drift.rejected.every((share) => share !== null)) said.push(`Rejected: ${fixed(drift.rejected[0], 1)} % before, ${fixed(drift.rejected[1], 1)} % now.`);
  const both = drift.both;
  if (both) said.push(`${number(both.pictures)} pictures are in both: ${interval(both.mean)} on average; `
    + `${number(both.now_rejected)} were accepted and are rejected now, ${number(both.now_accepted)} the other way round.`);
  section.append(make("p", {}, said.join(" ")));
  section.append(table(["what is wrong", "before, %", "now, %"], drift.distortions.map(([name, a, b]) => [name, fixed(a, 1), fixed(b, 1)])));
  if (!both) return;
  const changes = (rows) => table(["picture", "before", "now", "change"],
    rows.map((row) => [row.source, fixed(row.score_old), fixed(row.score), signed(row.change)]));
  section.append(make("div", { class: "columns" },
    make("div", {}, make("h2", {}, "Fell the most"), changes(both.fell)),
    make("div", {}, make("h2", {}, "Rose the most"), changes(both.rose))));
}
function showErrors() {
  if (!data.errors.length) return;
  at("errors").hidden = false;
  at("errors").append(make("h2", {}, "Not scored"), table(["error, and one of them", "pictures"],
    data.errors.map(([kind, count, example]) => [`${kind}: ${example}`, number(count)])));
}

function draw() {
  const kept = data.cells.filter(cellPasses);
  drawHistogram(kept);
  drawDistortions(kept);
  drawGalleries();
}
showFigures();
addFilters();
showDrift();
showErrors();
draw();
