// The sections of the page in their order, then what holds for the whole of it.

function whichWay(metrics) {
  const higher = metrics.filter(m => m.more_is_better).map(m => m.name);
  return higher.length ? `Lower is better; of ${higher.join(", ")}, higher is.` : "Lower is better.";
}
function headline() {
  const best = byName.get(data.best), state = Object.entries(data.counts).map(([name, n]) => `${n} ${name}`).join(", ");
  document.getElementById("counts").textContent = data.n_trials ? `${data.n_trials} trials (${state}), ${data.n_images} pictures` : "No trials yet";
  if (!best) return section("best", "Best configuration", h("p", {text: !data.n_trials ? "This study has no trials yet. Launch it, and make the report again." : data.counts.running ? "No trial has been scored yet. Make the report again when one has." : "No trial could be scored. Why stands under Failures."}));
  const facts = data.metrics.slice(0, 4).map(m => [h("dt", {text: m.name}), h("dd", {}, metric(best, m.key), interval(best, m.key) ? h("small", {text: interval(best, m.key)}) : null)]);
  const against = best.vs_baseline_n ? `Against the baseline its LPIPS is ${number(Math.abs(best.vs_baseline), 3)} ${best.vs_baseline < 0 ? "closer to" : "further from"} the subject (95 % of the difference: ${number(best.vs_baseline_low, 3)} to ${number(best.vs_baseline_high, 3)}; ${best.vs_baseline_n} pairs of the same prompt and noise).` : null;
  section("best", "Best configuration", h("div", {class: "lead"},
    h("div", {}, h("p", {}, opener(best.trial), known(best.best_epoch) ? `, at epoch ${best.best_epoch}` : "", known(best.n_images) ? `, ${best.n_images} pictures` : ""),
      h("ul", {class: "settings"}, data.parameters.filter(p => known(best.configuration[p])).map(p => h("li", {}, h("span", {text: nameOf(p) + " "}), setting(best.configuration[p])))),
      h("dl", {class: "facts"}, facts.map(([dt, dd]) => h("div", {}, dt, dd))), h("p", {class: "quiet", style: "margin-top:14px", text: `${whichWay(data.metrics.slice(0, 4))} Small figures are 95 % intervals.`}), against ? h("p", {class: "quiet", style: "margin-top:16px", text: against}) : null),
    data.cannot_tell.length ? h("div", {class: "limits"}, h("h3", {text: "What this cannot tell"}), h("ul", {}, data.cannot_tell.map(text => h("li", {text})))) : null));
}
function pictures() {
  const rows = data.first.map(row => ({...row, images: row.images.map(decoded)}));
  if (!rows.some(row => row.images.some(picture => known(picture.at)))) return;
  const prompts = [...new Set(rows.flatMap(row => row.images.map(picture => picture.prompt)))].slice(0, 8);
  const head = h("tr", {}, h("td", {class: "corner"}), prompts.map(prompt => h("th", {scope: "col", text: data.pictures.prompts[prompt]})));
  const lines = rows.map(row => h("tr", {}, h("th", {scope: "row"}, row.name, row.trial ? [h("br"), opener(row.trial)] : null),
    prompts.map(prompt => { const picture = row.images.find(own => own.prompt === prompt); return h("td", {}, picture ? tile(picture) : null); })));
  const ends = [["Closest to the subject", data.extremes.best], ["Furthest from it", data.extremes.worst]].filter(([, list]) => list.length);
  const isOneSeed = prompts.every(prompt => new Set(rows.flatMap(row => row.images.filter(picture => picture.prompt === prompt).map(picture => picture.seed))).size < 2);
  section("pictures", "Pictures", quiet(isOneSeed ? "A column is one prompt and one noise seed." : "A column is one prompt; noise seeds differ within it."),
    scroll("Pictures by prompt and trial", h("table", {class: "pics full", style: `min-width:${96 + prompts.length * 112}px;width:${Math.min(100, 9 + prompts.length * 19)}%`}, h("thead", {}, head), h("tbody", {}, lines))),
    ...ends.flatMap(([title, list]) => [h("h3", {text: `${title}, of ${data.best}`}), h("div", {class: "pairs"}, list.map(decoded).map(pair))]));
}
function learning() {
  const adapted = data.trials.filter(t => t.is_trial), chart = curves(adapted, data.best, "Learning curves"), trade = scatter(data.trials, "lpips", "fid");
  if (!chart && !trade) return;
  section("curves", "Learning curves", quiet("Blue is the best trial. A cross marks where a trial was stopped early. Open a point to see its trial." + (adapted.length > MOST_CURVES ? ` Curves of the first ${MOST_CURVES} in rank.` : "")),
    h("div", {class: "charts"}, chart, trade ? h("div", {}, trade, quiet("The dashed line joins what no other trial beats in both. A square is no adapter.")) : null));
}
function mattered() {
  const importance = data.importances.filter(row => known(row.importance)), groups = Map.groupBy ? [...Map.groupBy(data.effects, row => row.parameter).values()] : Object.values(data.effects.reduce((all, row) => ((all[row.parameter] ||= []).push(row), all), {}));
  if (!data.effects.length) return;
  section("mattered", "What mattered",
    importance.length ? [quiet("How much each parameter tells of being among the best trials (PED-ANOVA); the shares add up to 1. Thin lines: the middle 95 % of resampled trials."), bars(importance), data.order_note ? quiet(data.order_note) : null] : quiet(`Importance needs ${data.enough_trials} scored trials.`),
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
function parameters() {
  const all = data.trials.filter(trial => known(trial.rank_number)), n = Math.min(all.length, MOST_CURVES);
  if (!data.axes.length || n < 2) return;
  const trials = Array.from({length: n}, (_, i) => all[Math.floor(i * all.length / n)]);  // not the first alone: they would hide what the worse have in common
  const first = n < all.length ? ` ${n} of ${all.length} trials, evenly over the ranks.` : "";
  section("parameters", "Every trial by its parameters", quiet(`Blue is the best trial. Point at a line or dot for its trial, open it for the rest. Trials of one value are set a little apart.${first}`),
    h("h3", {text: "Parallel coordinates"}), scroll("Parallel coordinates", parallel(trials)), h("h3", {text: "Slices"}), h("div", {class: "charts"}, data.axes.map((axis, k) => slice(axis, k, trials))));
}
headline(); pictures(); pictureGrid(); ranked(); learning(); parameters(); mattered(); costs(); failed(); repeat();

// ---- values under the pointer or the focus

function show(event) {
  const node = event.target.closest && event.target.closest("[data-tip]");
  if (!node) { tip.hidden = true; return; }
  (node.closest("dialog") || document.body).append(tip);  // a modal dialog covers what is outside of it
  tip.textContent = node.getAttribute("data-tip"); tip.hidden = false;
  const whole = node.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const box = node.dataset.follow && event.clientX !== undefined ? new DOMRect(event.clientX, event.clientY - 6, 0, 12) : whole;
  tip.style.left = Math.max(8, Math.min(box.left + box.width / 2 - own.width / 2, innerWidth - own.width - 8)) + "px";
  tip.style.top = (box.top - own.height - 8 > 0 ? box.top - own.height - 8 : Math.min(box.bottom + 8, innerHeight - own.height - 8)) + "px";
}
for (const event of ["pointerover", "focusin"]) document.addEventListener(event, show);
document.addEventListener("scroll", () => { tip.hidden = true; }, true);
document.addEventListener("keydown", event => { if (event.key === "Escape") tip.hidden = true; });

// A chart is one stop for Tab; arrow keys go from mark to mark.
document.addEventListener("keydown", event => {
  const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key], svg = event.target.closest && event.target.closest("svg");
  if (!step || !svg) return;
  const marks = [...svg.querySelectorAll("[role=button]")], here = marks.indexOf(event.target), next = marks[(here + step + marks.length) % marks.length];
  if (here < 0) return;
  event.preventDefault();
  event.target.setAttribute("tabindex", "-1"); next.setAttribute("tabindex", "0"); next.focus();
});
