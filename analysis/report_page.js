"use strict";
// Draws the page from the numbers in #numbers. Text of a study is only ever set as textContent or as an attribute's value.
const data = JSON.parse(document.getElementById("numbers").textContent);
const main = document.getElementById("main"), tip = document.getElementById("tip"), dialog = document.getElementById("trial");
const byName = new Map(data.trials.map(trial => [trial.trial, trial]));
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "text") node.textContent = value;
    else if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter(child => child !== null && child !== undefined));
  return node;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const known = value => value !== null && value !== undefined;
function number(value, digits) {
  if (!known(value)) return "–";
  if (typeof value !== "number") return String(value);
  if (digits === undefined) return String(Number(value.toPrecision(4)));
  return value.toFixed(digits);
}
const MOST_CURVES = 200;  // more are a smear, and ten thousand marks are slow
const digitsOf = key => key === "fid" ? 1 : key === "kid" || key === "objective" ? 4 : 3;
const metric = (trial, key) => number(trial[key], digitsOf(key));
function interval(trial, key) {
  const low = trial[key + "_low"], high = trial[key + "_high"];
  return known(low) && known(high) ? `${number(low, digitsOf(key))} to ${number(high, digitsOf(key))}` : "";
}
const nameOf = parameter => parameter.replace(/^label\./, "").replace(/_asked$/, "");
const setting = value => !known(value) ? "–" : typeof value === "number" ? number(value) : String(value);
const settings = trial => data.parameters.filter(name => known(trial.configuration[name])).map(name => `${nameOf(name)} ${setting(trial.configuration[name])}`).join(", ");

function section(id, title, ...children) {
  const node = h("section", {id, "aria-labelledby": id + "-title"}, h("h2", {id: id + "-title", text: title}), ...children);
  main.append(node);
  document.getElementById("nav").append(h("a", {href: "#" + id, text: title}));
  return node;
}
const quiet = text => h("p", {class: "quiet", text});
const scroll = (name, ...children) => h("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": name}, ...children);
const opener = name => h("button", {class: "open", type: "button", text: name, on: {click: () => open(name)}});

function image(picture, at = picture.at, what = picture.prompt) {
  return known(at) ? h("img", {src: data.thumbnails[at], alt: what || "", loading: "lazy"}) : h("div", {class: "gone", role: "img", "aria-label": what + ", not embedded", text: "not embedded"});
}
function tile(picture, withPrompt) {
  const text = [`LPIPS ${number(picture.lpips, 3)}`, withPrompt ? picture.prompt : null].filter(known).join(" · ");
  return h("figure", {"data-tip": `${picture.prompt}\nseed ${picture.seed}\nnearest training image ${picture.nearest || "unknown"}, LPIPS ${number(picture.nearest_lpips, 3)}`},
    image(picture), h("figcaption", {}, text, picture.is_copy ? h("span", {class: "copy", text: " copy"}) : null));
}

// ---- charts: scales, then marks with a tip each

function scale(values, from, to) {
  const finite = values.filter(known);
  let low = Math.min(...finite), high = Math.max(...finite);
  if (!(high > low)) { low -= 0.5; high += 0.5; }
  const of = value => from + (value - low) / (high - low) * (to - from);
  const raw = (high - low) / 4, unit = 10 ** Math.floor(Math.log10(raw)), step = unit * ([1, 2, 5].find(m => unit * m >= raw) || 10);
  of.ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) of.ticks.push(Number(tick.toPrecision(10)));
  return of;
}
const W = 460, H = 280, L = 52, R = 448, T = 12, B = 236;
function frame(label, x, y, xName, yName, xTicks) {
  const svg = s("svg", {viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": label});
  for (const tick of y.ticks) svg.append(s("line", {class: "axis", x1: L, x2: R, y1: y(tick), y2: y(tick)}), s("text", {x: L - 8, y: y(tick) + 4, "text-anchor": "end"}, number(tick)));
  for (const tick of xTicks || x.ticks) svg.append(s("text", {x: x(tick), y: B + 18, "text-anchor": "middle"}, number(tick)));
  svg.append(s("text", {x: R, y: B + 38, "text-anchor": "end"}, xName), s("text", {x: 0, y: T - 2}, yName));
  return svg;
}
function mark(node, text, name) {
  node.setAttribute("data-tip", text); node.setAttribute("role", "img"); node.setAttribute("aria-label", text);
  if (name) { node.setAttribute("tabindex", "0"); node.setAttribute("role", "button"); node.addEventListener("click", () => open(name)); node.addEventListener("keydown", event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(name); } }); }
  return node;
}
function curves(all, top, label) {
  const trials = all.filter((trial, i) => i < MOST_CURVES || trial.trial === top);
  const points = trials.flatMap(trial => trial.curve).filter(point => known(point[1]));
  if (!points.length) return null;
  const epochs = [...new Set(points.map(point => point[0]))].sort((a, b) => a - b);
  const x = scale(epochs, L + 8, R - 8), y = scale(points.map(point => point[1]), B, T + 8);
  const svg = frame(label, x, y, "epoch", "objective, lower is better", epochs.filter((epoch, i) => i === 0 || x(epoch) - x(epochs[i - 1]) > 24));
  for (const trial of [...trials].sort((a, b) => (a.trial === top) - (b.trial === top))) {
    const own = trial.curve.filter(point => known(point[1])), is = trial.trial === top ? " top" : "";
    if (own.length) svg.append(s("polyline", {class: "curve" + is, points: own.map(([a, b]) => `${x(a)},${y(b)}`).join(" ")}));
    own.forEach(([a, b], i) => {
      svg.append(mark(s("circle", {class: "dot" + is, cx: x(a), cy: y(b), r: is ? 4.5 : 3}), `${trial.trial}, epoch ${a}: ${number(b, 4)}\n${settings(trial)}`, trial.trial));
      if (trial.state === "PRUNED" && i === own.length - 1) svg.append(s("path", {class: "stop", d: `M${x(a) - 5} ${y(b) - 5}l10 10m0 -10l-10 10`, "pointer-events": "none"}));
    });
  }
  return svg;
}
function scatter(trials, xKey, yKey) {
  const own = trials.filter(trial => known(trial[xKey]) && known(trial[yKey]) && trial.state !== "FAIL");
  if (own.length < 2) return null;
  const x = scale(own.map(t => t[xKey]), L + 8, R - 8), y = scale(own.map(t => t[yKey]), B, T + 8);
  const svg = frame("LPIPS against FID", x, y, "LPIPS, lower is closer", "FID, lower is better");
  const adapted = own.filter(t => !t.is_control);
  const front = adapted.filter(a => !adapted.some(b => b[xKey] <= a[xKey] && b[yKey] <= a[yKey] && (b[xKey] < a[xKey] || b[yKey] < a[yKey]))).sort((a, b) => a[xKey] - b[xKey]);
  svg.append(s("polyline", {class: "front", points: front.map(t => `${x(t[xKey])},${y(t[yKey])}`).join(" ")}));
  for (const t of own) {
    const text = `${t.trial}: LPIPS ${metric(t, xKey)}, FID ${metric(t, yKey)}\n${settings(t)}`, px = x(t[xKey]), py = y(t[yKey]);
    const shape = t.is_control ? s("path", {class: "stop", d: `M${px - 4} ${py - 4}h8v8h-8z`}) : s("circle", {class: "dot" + (t.trial === data.best ? " top" : ""), cx: px, cy: py, r: 5});
    svg.append(mark(shape, text, t.trial));
  }
  return svg;
}
function bars(rows) {
  const svg = s("svg", {viewBox: `0 0 ${W} ${rows.length * 32 + 6}`, role: "group", "aria-label": "Importance of parameters"}), most = Math.max(...rows.map(row => row.importance), 1e-9);
  rows.forEach((row, i) => svg.append(s("text", {x: 0, y: i * 32 + 20}, nameOf(row.parameter)),
    mark(s("rect", {class: "bar", x: 150, y: i * 32 + 7, width: Math.max(2, row.importance / most * 240), height: 17, rx: 3}), `${nameOf(row.parameter)}: ${number(row.importance, 3)} of 1, ${row.n} trials`),
    s("text", {x: 158 + Math.max(2, row.importance / most * 240), y: i * 32 + 20}, number(row.importance, 2))));
  return svg;
}
function effects(rows) {
  const y = rows.map((_, i) => i * 30 + 22), x = scale(rows.flatMap(row => [row.mean, row.low, row.high]), 160, 400), name = nameOf(rows[0].parameter);
  const svg = s("svg", {viewBox: `0 0 ${W} ${rows.length * 30 + 34}`, role: "group", "aria-label": `Mean objective by ${name}`});
  for (const tick of x.ticks) svg.append(s("line", {class: "axis", x1: x(tick), x2: x(tick), y1: 4, y2: rows.length * 30 + 6}), s("text", {x: x(tick), y: rows.length * 30 + 22, "text-anchor": "middle"}, number(tick)));
  rows.forEach((row, i) => {
    if (known(row.low)) svg.append(s("line", {class: "whisker", x1: x(row.low), x2: x(row.high), y1: y[i], y2: y[i]}));
    const cut = row.level.length > 20 ? row.level.slice(0, 19) + "…" : row.level;
    svg.append(s("text", {x: 0, y: y[i] + 4}, cut), mark(s("circle", {class: "dot top", cx: x(row.mean), cy: y[i], r: 5}), `${name} ${row.level}: mean ${number(row.mean, 4)}${known(row.low) ? `, 95 % ${number(row.low, 4)} to ${number(row.high, 4)}` : ""}, ${row.n} trials`), s("text", {x: W, y: y[i] + 4, "text-anchor": "end"}, `n ${row.n}`));
  });
  return h("div", {}, h("h3", {text: name}), svg);
}

// ---- the ranked table

function ranked() {
  const measured = data.metrics.map(m => ({key: m.key, name: m.name, number: true, metric: true, of: t => t[m.key]}));
  const columns = [
    {key: "rank_number", name: "#", number: true, of: t => t.rank_number}, {key: "trial", name: "trial", of: t => t.trial},
    ...measured.slice(0, 3), ...data.parameters.map(name => ({key: name, name: nameOf(name), of: t => t.configuration[name]})),
    {key: "best_epoch", name: "best epoch", number: true, of: t => t.best_epoch}, {key: "state", name: "state", of: t => t.state.toLowerCase()},
    ...measured.slice(3)];
  let by = columns[0], down = false;
  const body = h("tbody"), heads = columns.map(column => h("th", {scope: "col", class: column.number ? "number" : null}, h("button", {type: "button", text: column.name, on: {click: () => { down = by === column && !down; by = column; draw(); }}})));
  const search = h("input", {type: "search", id: "filter", placeholder: "e.g. v2 rank=16 -pruned", "aria-label": "Filter trials by words; name=value for one parameter; -word leaves out", on: {input: draw}});
  const count = h("span", {class: "quiet", role: "status", id: "shown"});
  function passes(trial) {
    const text = [trial.trial, trial.state, trial.is_baseline ? "baseline" : "", settings(trial), trial.reason].join(" ").toLowerCase();
    return search.value.toLowerCase().split(/\s+/).filter(Boolean).every(word => {
      const not = word.startsWith("-") && word.length > 1, plain = not ? word.slice(1) : word, [name, value] = plain.split("=");
      const exact = data.parameters.find(parameter => nameOf(parameter).toLowerCase() === name);
      const found = value !== undefined && exact ? setting(trial.configuration[exact]).toLowerCase() === value : text.includes(plain);
      return found !== not;
    });
  }
  function compare(a, b) {
    const x = by.of(a), y = by.of(b);
    if (!known(x) || !known(y)) return known(y) - known(x);  // what is missing stays last either way
    const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), undefined, {numeric: true});
    return down ? -order : order;
  }
  function cell(trial, column) {
    if (column.key === "trial") return h("td", {}, opener(trial.trial), trial.is_baseline ? h("small", {text: "baseline"}) : null);
    const value = column.of(trial), band = column.key === "lpips" ? trial.lpips_band : column.key === "fid" ? trial.fid_band : null;
    if (!column.metric) return h("td", {class: column.number ? "number" : null, text: setting(value)});
    const range = interval(trial, column.key);
    return h("td", {class: "number"}, metric(trial, column.key), band ? " " + band : null, range ? h("small", {text: range}) : null);
  }
  function draw() {
    const rows = data.trials.filter(passes).sort(compare);
    body.replaceChildren(...rows.map(trial => h("tr", {class: trial.trial === data.best ? "best" : known(trial.rank_number) ? null : "out", "data-trial": trial.trial}, columns.map(column => cell(trial, column)))));
    heads.forEach((head, i) => columns[i] === by ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
    count.textContent = `${rows.length} of ${data.trials.length} rows`;
  }
  section("ranked", "Ranked trials", quiet(`Best first. Small figures are 95 % intervals. ${data.caption}`),
    h("div", {class: "tools"}, search, count), scroll("Ranked trials", h("table", {id: "ranked-table"}, h("thead", {}, h("tr", {}, heads)), body)));
  draw();
}

// ---- one trial

function open(name) {
  const trial = byName.get(name);
  if (!trial) return;
  const row = (key, value) => h("tr", {}, h("th", {scope: "row", text: key}), h("td", {class: "wrap", text: value}));
  const facts = data.metrics.map(m => [m.name, metric(trial, m.key) + (interval(trial, m.key) ? ` (95 %: ${interval(trial, m.key)})` : "")]);
  if (trial.vs_baseline_n) facts.push(["LPIPS less the baseline's", `${number(trial.vs_baseline, 3)} (95 %: ${number(trial.vs_baseline_low, 3)} to ${number(trial.vs_baseline_high, 3)}, ${trial.vs_baseline_n} pairs)`]);
  if (known(trial.n_images)) facts.push(["pictures", `${trial.n_images}` + (trial.n_copies ? `, ${trial.n_copies} of them copies of a training image` : "")]);
  if (known(trial.epochs)) facts.push(["epochs", `${trial.epochs}, best at ${setting(trial.best_epoch)}`]);
  if (known(trial.training_key)) facts.push(["training", trial.training_key]);
  const close = h("button", {class: "button", type: "button", text: "Close", on: {click: () => dialog.close()}});
  const chart = trial.is_control ? null : curves(data.trials.filter(t => !t.is_control), name, `Learning curve of ${name} among all`);
  dialog.replaceChildren(h("div", {class: "inside"},
    h("div", {class: "top-line"}, h("div", {}, h("h2", {id: "trial-name", text: known(trial.rank_number) ? `${name}, rank ${trial.rank_number}` : name}), quiet(`${trial.state.toLowerCase()}${trial.reason ? ": " + trial.reason : ""}`)), close),
    h("ul", {class: "settings"}, data.parameters.filter(p => known(trial.configuration[p])).map(p => h("li", {}, h("span", {text: nameOf(p) + " "}), setting(trial.configuration[p])))),
    h("table", {}, h("tbody", {}, facts.map(([key, value]) => row(key, value)))),
    trial.images.length ? [h("h3", {text: "Pictures"}), h("div", {class: "tiles"}, trial.images.map(picture => tile(picture, true)))] : null,
    chart ? [h("h3", {text: "Learning curve"}), chart] : null,
    trial.command ? [h("h3", {text: "Train and score it again"}), command(trial.command)] : null));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
function command(text) {
  const said = h("span", {class: "quiet", role: "status"});
  const copy = h("button", {class: "button", type: "button", text: "Copy", on: {click: () => navigator.clipboard ? navigator.clipboard.writeText(text).then(() => { said.textContent = " Copied"; }, () => { said.textContent = " Select the text to copy it"; }) : (said.textContent = " Select the text to copy it")}});
  return h("div", {}, h("pre", {text}), copy, said);
}

// ---- sections

function headline() {
  const best = byName.get(data.best), state = Object.entries(data.counts).map(([name, n]) => `${n} ${name.toLowerCase()}`).join(", ");
  const adapted = data.trials.filter(t => !t.is_control);
  document.getElementById("counts").textContent = adapted.length ? `${adapted.length} trials (${state}), ${data.n_images} pictures` : "No trials yet";
  if (!best) return section("best", "Best configuration", h("p", {text: !adapted.length ? "This study has no trials yet. Launch it, and make the report again." : data.counts.RUNNING ? "No trial has been scored yet. Make the report again when one has." : "No trial could be scored. Why stands under Failures."}));
  const facts = data.metrics.slice(0, 4).map(m => [h("dt", {text: m.name}), h("dd", {}, metric(best, m.key), interval(best, m.key) ? h("small", {text: interval(best, m.key)}) : null)]);
  const against = best.vs_baseline_n ? `Against the baseline its LPIPS is ${number(Math.abs(best.vs_baseline), 3)} ${best.vs_baseline < 0 ? "closer to" : "further from"} the subject (95 % of the difference: ${number(best.vs_baseline_low, 3)} to ${number(best.vs_baseline_high, 3)}; ${best.vs_baseline_n} pairs of the same prompt and noise).` : null;
  section("best", "Best configuration", h("div", {class: "lead"},
    h("div", {}, h("p", {}, opener(best.trial), known(best.best_epoch) ? `, at epoch ${best.best_epoch}` : "", known(best.n_images) ? `, ${best.n_images} pictures` : ""),
      h("ul", {class: "settings"}, data.parameters.filter(p => known(best.configuration[p])).map(p => h("li", {}, h("span", {text: nameOf(p) + " "}), setting(best.configuration[p])))),
      h("dl", {class: "facts"}, facts.map(([dt, dd]) => h("div", {}, dt, dd))), h("p", {class: "quiet", style: "margin-top:14px", text: "Lower is better. Small figures are 95 % intervals."}), against ? h("p", {class: "quiet", style: "margin-top:16px", text: against}) : null),
    data.cannot_tell.length ? h("div", {class: "limits"}, h("h3", {text: "What this cannot tell"}), h("ul", {}, data.cannot_tell.map(text => h("li", {text})))) : null));
}
function pictures() {
  const rows = data.pictures;
  if (!rows.length) return;
  const prompts = [...new Set(rows.flatMap(row => row.images.map(image => image.prompt)))].slice(0, 8);
  const cells = [h("div"), ...prompts.map(text => h("div", {class: "head", text})), ...rows.flatMap(row => [
    h("div", {class: "side"}, row.name, row.trial ? [h("br"), opener(row.trial)] : null),
    ...prompts.map(text => { const picture = row.images.find(image => image.prompt === text); return picture ? tile(picture) : h("div"); })])];
  const grid = h("div", {class: "grid", style: `grid-template-columns:92px repeat(${prompts.length},minmax(104px,1fr));min-width:${92 + prompts.length * 112}px`}, cells);
  const pair = picture => h("figure", {}, h("div", {class: "two"}, image(picture), image(picture, picture.nearest_at, "nearest training image")), h("figcaption", {}, `LPIPS ${number(picture.lpips, 3)}. Right: nearest training image, ${number(picture.nearest_lpips, 3)}`, picture.is_copy ? h("span", {class: "copy", text: ", a copy"}) : null, ". ", picture.prompt));
  const ends = [["Closest to the subject", data.extremes.best], ["Furthest from it", data.extremes.worst]].filter(([, list]) => list.length);
  const isOneSeed = prompts.every(text => new Set(rows.flatMap(row => row.images.filter(image => image.prompt === text).map(image => image.seed))).size < 2);
  section("pictures", "Pictures", quiet(isOneSeed ? "A column is one prompt and one noise seed." : "A column is one prompt; noise seeds differ within it."), scroll("Pictures by prompt and trial", grid),
    ...ends.flatMap(([title, list]) => [h("h3", {text: `${title}, of ${data.best}`}), h("div", {class: "pairs"}, list.map(pair))]));
}
function learning() {
  const adapted = data.trials.filter(t => !t.is_control), chart = curves(adapted, data.best, "Learning curves"), trade = scatter(data.trials, "lpips", "fid");
  if (!chart && !trade) return;
  section("curves", "Learning curves", quiet("Blue is the best trial. A cross marks where a trial was stopped early. Open a point to see its trial." + (adapted.length > MOST_CURVES ? ` Curves of the first ${MOST_CURVES} in rank.` : "")),
    h("div", {class: "charts"}, chart, trade ? h("div", {}, trade, quiet("The dashed line joins what no other trial beats in both. A square is a control without an adapter.")) : null));
}
function mattered() {
  const importance = data.importances.filter(row => known(row.importance)), groups = Map.groupBy ? [...Map.groupBy(data.effects, row => row.parameter).values()] : Object.values(data.effects.reduce((all, row) => ((all[row.parameter] ||= []).push(row), all), {}));
  if (!data.effects.length) return;
  section("mattered", "What mattered",
    importance.length ? [quiet("How much each parameter tells of being among the best trials (PED-ANOVA); the shares add up to 1."), bars(importance)] : quiet(`Importance needs ${data.enough_trials} scored trials.`),
    quiet("Mean objective at each value, with a 95 % interval over trials. Other parameters vary too, unless the study was a grid: this is what was seen, not a cause."), h("div", {class: "charts"}, groups.map(effects)));
}
function costs() {
  if (!data.cost.some(row => row.asked)) return;
  const time = seconds => !known(seconds) ? "–" : seconds < 120 ? `${number(seconds, 1)} s` : seconds < 7200 ? `${number(seconds / 60, 1)} min` : `${number(seconds / 3600, 1)} h`;
  const heads = ["work", "asked for", "done", "saved", "device time"];
  section("cost", "Cost, and what sharing saved", scroll("Cost", h("table", {}, h("thead", {}, h("tr", {}, heads.map((text, i) => h("th", {scope: "col", class: i ? "number" : null, text})))),
    h("tbody", {}, data.cost.map(row => h("tr", {}, h("td", {text: row.work}), h("td", {class: "number", text: `${row.asked} ${row.unit}`}), h("td", {class: "number", text: row.done}), h("td", {class: "number", text: known(row.saved_share) ? `${row.saved} (${number(row.saved_share * 100, 0)} %)` : "–"}), h("td", {class: "number", text: time(row.device_seconds) + (row.is_estimate && known(row.device_seconds) ? ", estimated" : "")})))))));
}
function failed() {
  if (!data.failures.length) return;
  section("failures", "Failures", scroll("Failures", h("table", {}, h("thead", {}, h("tr", {}, ["trials", "reason", "which"].map(text => h("th", {scope: "col", text})))),
    h("tbody", {}, data.failures.map(row => h("tr", {}, h("td", {text: `${row.n} (${number(row.share * 100, 0)} %)`}), h("td", {class: "wrap", text: row.reason}), h("td", {class: "wrap"}, row.trials.split(", ").slice(0, 50).flatMap((name, i) => [i ? ", " : "", byName.has(name) ? opener(name) : name]))))))));
}
function repeat() {
  const list = (title, pairs) => pairs.length ? [h("h3", {text: title}), h("table", {}, h("tbody", {}, pairs.map(([key, value]) => h("tr", {}, h("th", {scope: "row", text: key.replaceAll("_", " ")}), h("td", {class: "wrap", text: String(value)})))))] : null;
  section("repeat", "How to repeat it", quiet("From the folder that holds the storage. What is recorded is not computed again."), command(data.repeat.launch), list("Study", Object.entries(data.repeat.study)),
    list("Made with", [...Object.entries(data.repeat.versions), ...(data.repeat.devices.length ? [["device", data.repeat.devices.join(", ")]] : [])]));
  const left = data.n_left_out, notes = [left.images && `${left.images} pictures of these trials are not in this file`, left.budget && `the file is kept small`, left.missing && `${left.missing} pictures were missing or unreadable`].filter(Boolean);
  document.getElementById("foot").textContent = `Intervals drawn with seed ${data.seed}. ${notes.length ? notes.join("; ") + "." : ""}`;
}
headline(); pictures(); ranked(); learning(); mattered(); costs(); failed(); repeat();

// ---- values under the pointer or the focus

function show(event) {
  const node = event.target.closest && event.target.closest("[data-tip]");
  if (!node) { tip.hidden = true; return; }
  (node.closest("dialog") || document.body).append(tip);  // a modal dialog covers what is outside of it
  tip.textContent = node.getAttribute("data-tip"); tip.hidden = false;
  const box = node.getBoundingClientRect(), own = tip.getBoundingClientRect();
  tip.style.left = Math.max(8, Math.min(box.left + box.width / 2 - own.width / 2, innerWidth - own.width - 8)) + "px";
  tip.style.top = (box.top - own.height - 8 > 0 ? box.top - own.height - 8 : Math.min(box.bottom + 8, innerHeight - own.height - 8)) + "px";
}
for (const event of ["pointerover", "focusin"]) document.addEventListener(event, show);
document.addEventListener("scroll", () => { tip.hidden = true; }, true);
document.addEventListener("keydown", event => { if (event.key === "Escape") tip.hidden = true; });
