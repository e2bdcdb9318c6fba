// The charts of the page: scales, then marks with a tip each; a mark of a trial opens it.

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
  if (name) { node.setAttribute("tabindex", "-1"); node.setAttribute("role", "button"); node.dataset.trial = name; node.addEventListener("click", () => open(name)); node.addEventListener("keydown", event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(name); } }); }
  return node;
}
function enterable(svg) {  // by Tab: at the best trial, else at the first mark
  const marks = [...svg.querySelectorAll("[role=button]")], first = marks.find(node => node.dataset.trial === data.best) || marks[0];
  if (first) first.setAttribute("tabindex", "0");
  return svg;
}
function curves(all, top, label) {
  const trials = all.filter((trial, i) => i < MOST_CURVES || trial.trial === top);
  const points = trials.flatMap(trial => trial.rungs).filter(point => known(point[1]));
  if (!points.length) return null;
  const epochs = [...new Set(points.map(point => point[0]))].sort((a, b) => a - b);
  const x = scale(epochs, L + 8, R - 8), y = scale(points.map(point => point[1]), B, T + 8);
  const svg = frame(label, x, y, "epoch", `objective, ${direction("objective")}`, epochs.filter((epoch, i) => i === 0 || x(epoch) - x(epochs[i - 1]) > 24));
  for (const trial of [...trials].sort((a, b) => (a.trial === top) - (b.trial === top))) {
    const own = trial.rungs.filter(point => known(point[1])), is = trial.trial === top ? " top" : "";
    if (own.length) svg.append(s("polyline", {class: "curve" + is, points: own.map(([a, b]) => `${x(a)},${y(b)}`).join(" ")}));
    own.forEach(([a, b], i) => {
      svg.append(mark(s("circle", {class: "dot" + is, cx: x(a), cy: y(b), r: is ? 4.5 : 3}), `${trial.trial}, epoch ${a}: ${number(b, 4)}\n${settings(trial)}`, trial.trial));
      if (trial.state === "stopped early" && i === own.length - 1) svg.append(s("path", {class: "stop", d: `M${x(a) - 5} ${y(b) - 5}l10 10m0 -10l-10 10`, "pointer-events": "none"}));
    });
  }
  return enterable(svg);
}
function scatter(trials, xKey, yKey) {
  const own = trials.filter(trial => known(trial[xKey]) && known(trial[yKey]) && trial.state !== "failed");
  if (own.length < 2) return null;
  const x = scale(own.map(t => t[xKey]), L + 8, R - 8), y = scale(own.map(t => t[yKey]), B, T + 8);
  const names = [xKey, yKey].map(key => metricOf(key).name);
  const svg = frame(names.join(" against "), x, y, ...[xKey, yKey].map((key, i) => `${names[i]}, ${direction(key)}`));
  const adapted = own.filter(t => t.is_trial);
  const beats = (b, a) => [xKey, yKey].every(key => cost(b, key) <= cost(a, key)) && [xKey, yKey].some(key => cost(b, key) < cost(a, key));
  const front = adapted.filter(a => !adapted.some(b => beats(b, a))).sort((a, b) => a[xKey] - b[xKey]);
  svg.append(s("polyline", {class: "front", points: front.map(t => `${x(t[xKey])},${y(t[yKey])}`).join(" ")}));
  for (const t of own) {
    const text = `${t.trial}: ${names[0]} ${metric(t, xKey)}, ${names[1]} ${metric(t, yKey)}\n${settings(t)}`, px = x(t[xKey]), py = y(t[yKey]);
    const shape = t.is_trial ? s("circle", {class: "dot" + (t.trial === data.best ? " top" : ""), cx: px, cy: py, r: 5}) : s("path", {class: "stop", d: `M${px - 4} ${py - 4}h8v8h-8z`});
    svg.append(mark(shape, text, t.trial));
  }
  return enterable(svg);
}
function bars(rows) {
  const most = Math.max(...rows.map(row => row.high ?? row.importance), 1e-9), x = share => 150 + Math.max(0, share) / most * 240;
  const svg = s("svg", {viewBox: `0 0 ${W} ${rows.length * 32 + 6}`, role: "group", "aria-label": "Importance of parameters"});
  rows.forEach((row, i) => {
    const y = i * 32 + 7, range = known(row.low) ? `${number(row.low, 2)} to ${number(row.high, 2)}` : "";
    svg.append(s("text", {x: 0, y: y + 13}, nameOf(row.parameter)),
      mark(s("rect", {class: "bar", x: 150, y, width: Math.max(2, x(row.importance) - 150), height: 17, rx: 3}), `${nameOf(row.parameter)}: ${number(row.importance, 2)} of 1${range ? `, ${range} in resampled trials` : ""}, ${row.n} trials`));
    if (known(row.low)) svg.append(s("line", {class: "whisker", x1: x(row.low), x2: x(row.high), y1: y + 8.5, y2: y + 8.5}));
    svg.append(s("text", {x: W, y: y + 13, "text-anchor": "end"}, number(row.importance, 1)));
  });
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

// ---- every trial by its parameters

// Where trials stand on an axis: numbers of a continuous parameter by value (on a log scale over a factor of 100), other values a step apart.
// Trials of one value stand a little apart: in order of rank, or scattered, where an order would look like a slope.
function ruler(axis, k, trials, from, to, isScattered) {
  if (axis.is_cut) {
    const own = trials.map(trial => trial.configuration[axis.name]).filter(known), low = Math.min(...own), high = Math.max(...own), isLog = low > 0 && high >= 100 * low;
    const of = isLog ? scale([Math.log10(low), Math.log10(high)], from, to) : scale([low, high], from, to);
    const powers = isLog ? of.ticks.filter(Number.isInteger) : of.ticks;
    return {at: trial => known(trial.configuration[axis.name]) ? of(isLog ? Math.log10(trial.configuration[axis.name]) : trial.configuration[axis.name]) : null,
      marks: powers.map(tick => [of(tick), isLog ? Number(`1e${tick}`).toExponential() : number(tick)])};
  }
  const n = axis.levels.length, step = (to - from) / n, place = level => from + (level + 0.5) * step, met = new Map(), room = Math.abs(step) * 0.6;
  const size = level => trials.filter(trial => trial.at[k] === level).length, sizes = axis.levels.map((_, level) => size(level));
  const offsets = new Map(trials.map(trial => { const level = trial.at[k], nth = met.get(level) || 0; met.set(level, nth + 1);
    const share = isScattered ? (nth * 0.618034) % 1 : nth / (sizes[level] - 1);
    return [trial.trial, sizes[level] > 1 ? (share - 0.5) * Math.min(room, sizes[level] * 5) : 0]; }));
  const every = Math.ceil(n / 12);
  return {at: trial => known(trial.at[k]) ? place(trial.at[k]) + offsets.get(trial.trial) : null, marks: axis.levels.map((text, level) => [place(level), text]).filter((_, level) => level % every === 0)};
}
const short = (text, most) => text.length > most ? text.slice(0, most - 1) + "…" : text;

function slice(axis, k, trials) {
  const name = nameOf(axis.name), x = ruler(axis, k, trials, L + 8, R - 8, true), y = scale(trials.map(trial => trial.objective), B - 8, T + 8);
  const svg = frame(`Objective by ${name}`, x, y, name, `objective, ${direction("objective")}`, []);
  const room = Math.max(4, Math.floor((R - L) / Math.max(1, x.marks.length) / 7));
  for (const [at, text] of x.marks) svg.append(s("line", {class: "tick", x1: at, x2: at, y1: B, y2: B + 4}), s("text", {x: at, y: B + 18, "text-anchor": "middle"}, short(text, room)));
  for (const trial of [...trials].reverse()) {
    const at = x.at(trial), is = trial.trial === data.best ? " top" : "";
    if (known(at)) svg.append(mark(s("circle", {class: "dot" + is, cx: at, cy: y(trial.objective), r: is ? 6 : 4}), `${trial.trial}, ${name} ${setting(trial.configuration[axis.name])}: ${number(trial.objective, 4)}\n${settings(trial)}`, trial.trial));
  }
  return enterable(svg);
}

function parallel(trials) {
  const n = data.axes.length + 1, width = Math.max(860, 150 * n), height = 340, top = 40, bottom = 316, gap = (width - 150) / Math.max(1, n - 1);
  const svg = s("svg", {viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Parallel coordinates: a line per trial across its parameters", class: "wide", style: `min-width:${Math.round(width * 0.85)}px`, id: "parallel"});
  const rulers = data.axes.map((axis, k) => ruler(axis, k, trials, bottom, top)), of = scale(trials.map(trial => trial.objective), bottom - 6, top + 6);
  const poles = [...data.axes.map((axis, k) => [nameOf(axis.name), rulers[k].marks, rulers[k].at]), ["objective", of.ticks.map(tick => [of(tick), number(tick)]), trial => of(trial.objective)]];
  const x = k => 40 + k * gap;
  poles.forEach(([name], k) => svg.append(s("line", {class: "axis", x1: x(k), x2: x(k), y1: top - 8, y2: bottom + 4}), s("text", {class: "pole", x: x(k) - 6, y: 16}, short(name, 19))));
  [...trials].reverse().forEach((trial, i) => {
    const points = poles.map(([, , at], k) => [x(k), at(trial)]).filter(([, y]) => known(y)).map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join(" ");
    const own = s("g", {class: "strand" + (trial.trial === data.best ? " top" : "")}, s("polyline", {class: "seen", points, "stroke-opacity": (0.15 + 0.6 * ((i + 1) / trials.length) ** 2).toFixed(2)}), s("polyline", {class: "hit", points}));
    own.dataset.follow = "1";
    svg.append(mark(own, `${trial.trial}: ${number(trial.objective, 4)}\n${settings(trial)}`, trial.trial));
  });
  poles.forEach(([, marks], k) => marks.forEach(([at, text]) => svg.append(s("text", {class: "on", x: x(k) + 7, y: at + 4, "pointer-events": "none"}, short(text, 13)))));
  return enterable(svg);
}
