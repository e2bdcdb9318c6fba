"use strict";
// Draws the page from the numbers in #numbers, with report_charts.js and report_grid.js: one program in the page, this file first.
// Text of a study is only ever set as textContent or as an attribute's value.
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
const MOST_ROWS = 500;  // of the table at once: ten thousand take seconds to lay out
const MOST_CURVES = 200;  // more are a smear, and ten thousand marks are slow
const digitsOf = key => key === "fid" ? 1 : key === "kid" || key === "objective" ? 4 : 3;
const metricOf = key => data.metrics.find(own => own.key === key) || {key, name: key, more_is_better: false};
const direction = key => metricOf(key).more_is_better ? "higher is better" : "lower is better";
const cost = (trial, key) => metricOf(key).more_is_better ? -trial[key] : trial[key];  // of any metric the lower the better
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

// ---- pictures: rows of numbers in the file, here with their texts

function decoded(row) {
  const picture = Object.fromEntries(data.pictures.fields.map((field, i) => [field, row[i]])), reference = known(picture.nearest) ? data.pictures.references[picture.nearest] : null;
  return {...picture, text: data.pictures.prompts[picture.prompt], seedText: data.pictures.seeds[picture.seed], reference};
}
const sets = new Map(Object.entries(data.pictures.sets).map(([key, rows]) => [key, rows.map(decoded)]));
function image(at, what) {
  return known(at) ? h("img", {src: data.thumbnails[at], alt: what || "", loading: "lazy", decoding: "async"}) : h("div", {class: "gone", role: "img", "aria-label": what + ", not embedded", text: "not embedded"});
}
const nearestText = picture => !picture.reference ? "nearest training image unknown" : picture.by_pixels ? `nearest training image by pixels: ${picture.reference.name}` : `nearest training image ${picture.reference.name}, LPIPS ${number(picture.nearest_lpips, 3)}`;
const about = picture => `${picture.text}\nseed ${picture.seedText}\nLPIPS ${number(picture.lpips, 3)}\n${nearestText(picture)}`;
const copyMark = picture => picture.is_copy ? h("span", {class: "copy", text: " copy"}) : null;
function beside(picture) {
  return known(picture.reference?.at) ? h("div", {class: "two"}, image(picture.at, picture.text), image(picture.reference.at, nearestText(picture))) : image(picture.at, picture.text);
}
function tile(picture) {
  return h("figure", {"data-tip": about(picture)}, image(picture.at, picture.text), h("figcaption", {}, `LPIPS ${number(picture.lpips, 3)}`, copyMark(picture)));
}
function pair(picture) {
  const near = !picture.reference ? "" : picture.by_pixels ? ". Right: nearest training image by pixels" : `. Right: nearest training image, ${number(picture.nearest_lpips, 3)}`;
  return h("figure", {"data-tip": about(picture)}, beside(picture), h("figcaption", {}, `LPIPS ${number(picture.lpips, 3)}`, known(picture.reference?.at) ? near : "", copyMark(picture), `. ${picture.text}`));
}

// ---- the ranked table

function ranked() {
  const measured = data.metrics.map(m => ({key: m.key, name: m.name, number: true, metric: true, descends: m.more_is_better, of: t => t[m.key]}));
  const columns = [
    {key: "rank_number", name: "#", number: true, of: t => t.rank_number}, {key: "trial", name: "trial", of: t => t.trial},
    ...measured.slice(0, 3), ...data.parameters.map(name => ({key: name, name: nameOf(name), of: t => t.configuration[name]})),
    {key: "best_epoch", name: "best epoch", number: true, of: t => t.best_epoch}, {key: "state", name: "state", of: t => t.state},
    ...measured.slice(3)];
  let by = columns[0], down = false, most = MOST_ROWS;
  const more = h("button", {class: "button", type: "button", id: "more", on: {click: () => { most = Infinity; draw(); }}});
  const body = h("tbody"), heads = columns.map(column => h("th", {scope: "col", class: column.number ? "number" : null}, h("button", {type: "button", text: column.name, on: {click: () => { down = by === column ? !down : Boolean(column.descends); by = column; draw(); }}})));
  const search = h("input", {type: "search", id: "filter", placeholder: "e.g. v2 rank=16 -stopped", "aria-label": "Filter trials by words; name=value for one parameter; -word leaves out", on: {input: draw}});
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
    body.replaceChildren(...rows.slice(0, most).map(trial => h("tr", {class: trial.trial === data.best ? "best" : known(trial.rank_number) ? null : "out", "data-trial": trial.trial}, columns.map(column => cell(trial, column)))));
    heads.forEach((head, i) => columns[i] === by ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
    count.textContent = `${rows.length} of ${data.trials.length} rows`;
    more.hidden = rows.length <= most;
    more.textContent = `Show all ${rows.length} rows`;
  }
  section("ranked", "Ranked trials", quiet(`Best first. Small figures are 95 % intervals. ${data.caption}`),
    h("div", {class: "tools"}, search, count), scroll("Ranked trials", h("table", {id: "ranked-table"}, h("thead", {}, h("tr", {}, heads)), body)), more);
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
  const pictures = sets.get(trial.set) || [], of = data.pictures.sizes[trial.set];
  const close = h("button", {class: "button", type: "button", text: "Close", on: {click: () => dialog.close()}});
  const chart = trial.is_trial ? curves(data.trials.filter(t => t.is_trial), name, `Learning curve of ${name} among all`) : null;
  dialog.replaceChildren(h("div", {class: "inside"},
    h("div", {class: "top-line"}, h("div", {}, h("h2", {id: "trial-name", text: known(trial.rank_number) ? `${name}, rank ${trial.rank_number}` : name}), quiet(`${trial.state}${trial.reason ? ": " + trial.reason : ""}`)), close),
    h("ul", {class: "settings"}, data.parameters.filter(p => known(trial.configuration[p])).map(p => h("li", {}, h("span", {text: nameOf(p) + " "}), setting(trial.configuration[p])))),
    h("table", {}, h("tbody", {}, facts.map(([key, value]) => row(key, value)))),
    pictures.length ? [h("h3", {text: "Pictures" + (pictures.some(picture => known(picture.reference?.at)) ? ", each beside its nearest training image" : "")}), quiet(of > pictures.length ? `${pictures.length} of ${of}; the others are in the study's folder.` : `All ${of}.`), h("div", {class: "pairs"}, pictures.map(pair))] : null,
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
