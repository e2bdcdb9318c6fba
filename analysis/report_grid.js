// The picture grid: any two or three axes, one prompt and one noise seed. Which trial stands for a pair of values is chosen as `analysis grid` does.

const EPOCH = "epoch";
function gridAxes() {
  const rungs = [...new Set(data.trials.filter(trial => known(trial.rank_number)).flatMap(trial => trial.rungs.filter(rung => sets.has(rung[2])).map(rung => rung[0])))].sort((a, b) => a - b);
  const searched = data.axes.map((axis, k) => ({key: axis.name, name: nameOf(axis.name), levels: axis.levels, of: entry => entry.trial.at[k]}));
  return rungs.length > 1 ? [...searched, {key: EPOCH, name: "epoch", levels: rungs.map(String), of: entry => rungs.indexOf(entry.epoch)}] : searched;
}

// One entry per trial, or per trial and rung where the epoch is an axis; first those that are like the best trial in what is not an axis.
function gridEntries(axes) {
  const keys = new Set(axes.map(axis => axis.key)), best = byName.get(data.best), others = data.parameters.filter(name => !keys.has(name) && !name.startsWith("label."));
  const agrees = trial => others.filter(name => JSON.stringify(trial.configuration[name]) === JSON.stringify(best.configuration[name])).length;
  return data.trials.filter(trial => known(trial.rank_number)).flatMap(trial => {
    const likeness = agrees(trial);
    return keys.has(EPOCH) ? trial.rungs.map(([epoch, objective, set]) => ({trial, epoch, objective, set, likeness})) : [{trial, epoch: trial.best_epoch, objective: trial.objective, set: trial.set, likeness}];
  }).filter(entry => sets.has(entry.set)).sort((a, b) => b.likeness - a.likeness || (a.objective ?? Infinity) - (b.objective ?? Infinity) || a.trial.rank_number - b.trial.rank_number);
}

function pictureGrid() {
  const axes = gridAxes(), shownPrompts = [...new Set(gridEntries([]).flatMap(entry => sets.get(entry.set).map(picture => picture.prompt)))].sort((a, b) => a - b);
  if (!axes.length || !shownPrompts.length) return;
  const choice = (name, label, options, value) => {
    const select = h("select", {id: `grid-${name}`, on: {change: event => chosen(event.target)}}, options.map(([key, text]) => h("option", {value: key, text})));
    select.value = value;
    return select;
  };
  const named = axes.map(axis => [axis.key, axis.name]), none = [["", "none"]], has = key => axes.some(axis => axis.key === key);
  const firstY = has("caption") ? "caption" : axes[0].key, rest = axes.map(axis => axis.key).filter(key => key !== firstY);
  const firstX = ["guidance", EPOCH].find(key => rest.includes(key)) ?? rest[0] ?? "";
  const x = choice("x", "Columns", axes.length > 1 ? named : [...none, ...named], firstX || firstY), y = choice("y", "Rows", [...none, ...named], firstX ? firstY : ""), z = choice("z", "Tables", [...none, ...named], "");
  const prompt = choice("prompt", "Prompt", shownPrompts.map(number => [number, data.pictures.prompts[number]]), shownPrompts[0]), seed = choice("seed", "Noise seed", [], "");
  const nearest = h("input", {type: "checkbox", id: "grid-nearest", on: {change: () => draw()}}), said = h("p", {class: "quiet", role: "status", id: "grid-said"}), place = h("div", {id: "grid-tables"});
  let before = [x.value, y.value, z.value];

  // An axis that is chosen twice: the other select takes what this one had.
  function chosen(select) {
    const selects = [x, y, z], here = selects.indexOf(select), twin = selects.find(other => other !== select && other.value && other.value === select.value);
    if (here >= 0 && twin) twin.value = before[here];
    if (x.value === "" && axes.length > 1) [x.value, y.value] = y.value ? [y.value, ""] : [axes.find(axis => axis.key !== z.value).key, ""];
    before = selects.map(own => own.value);
    if (select === prompt) fillSeeds();
    draw();
  }
  const ordered = (key, which) => (sets.get(key) || []).filter(picture => picture.prompt === which).map(picture => picture.seed);
  const seedsOf = which => [...new Set(gridEntries([]).flatMap(entry => ordered(entry.set, which)))];
  function fillSeeds() {
    seed.replaceChildren(...seedsOf(Number(prompt.value)).map((own, i) => h("option", {value: own, text: `${i + 1}: ${data.pictures.seeds[own]}`})));
  }
  const pictureIn = (key, which, noise) => (sets.get(key) || []).find(picture => picture.prompt === which && picture.seed === noise);

  function cell(entry, picture, closest) {
    if (!picture) return h("td", {}, h("div", {class: "gone empty", text: "no picture"}));
    const name = entry ? entry.trial.trial : "no adapter", tip = `${name}${entry && known(entry.epoch) ? `, epoch ${entry.epoch}` : ""}\n${about(picture)}${entry ? `\n${settings(entry.trial)}` : ""}`;
    const inner = [nearest.checked ? beside(picture) : image(picture.at, ""), h("span", {class: "under"}, `${entry ? name : ""} ${number(picture.lpips, 3)}`.trim(), copyMark(picture))];
    const attributes = {class: "cell" + (picture === closest ? " closest" : ""), "data-tip": tip};
    return h("td", {}, entry ? h("button", {...attributes, type: "button", "aria-label": `Open ${name}: ${picture.text}, LPIPS ${number(picture.lpips, 3)}`, "data-trial": name, on: {click: () => open(name)}}, inner)
      : h("div", attributes, inner));
  }

  function draw() {
    const axis = select => axes.find(own => own.key === select.value) || {name: "", levels: [""], of: () => 0, key: null};
    const [X, Y, Z] = [axis(x), axis(y), axis(z)], used = [X, Y, Z].filter(own => own.key !== null), which = Number(prompt.value), noise = Number(seed.value);
    const entries = gridEntries(used), met = new Set(), label = (own, level) => [own.name, own.levels[level]].filter(Boolean).join(" ");
    const found = (a, b, c) => entries.filter(entry => X.of(entry) === a && Y.of(entry) === b && Z.of(entry) === c).find(entry => pictureIn(entry.set, which, noise)) || null;
    const bare = data.pictures.bare[which], nth = seedsOf(which).indexOf(noise);
    const bareSeeds = known(bare) ? seedsOf(bare) : [], bareNoise = bareSeeds.includes(noise) ? noise : bareSeeds[Math.min(nth, bareSeeds.length - 1)];
    const tables = Z.levels.map((_, c) => {
      const rows = Y.levels.map((_, b) => X.levels.map((_, a) => found(a, b, c)));
      const shown = rows.flat().filter(Boolean).map(entry => pictureIn(entry.set, which, noise));
      rows.flat().filter(Boolean).forEach(entry => met.add(entry.trial));
      if (!shown.length) return null;
      const closest = shown.reduce((a, b) => (b.lpips ?? Infinity) < (a.lpips ?? Infinity) ? b : a);
      const lines = rows.map((row, b) => h("tr", {}, h("th", {scope: "row", text: label(Y, b)}), row.map(entry => cell(entry, entry && pictureIn(entry.set, which, noise), closest))));
      const last = rows.filter(row => row.some(Boolean)).pop();
      const without = known(bare) ? last.map(entry => entry && pictureIn(entry.set, bare, bareNoise)) : [];
      if (without.some(Boolean)) lines.push(h("tr", {class: "no-trigger"}, h("th", {scope: "row", text: "no trigger" + (bareNoise === noise ? "" : ", other noise")}), without.map((picture, i) => cell(last[i], picture))));
      const controls = X.levels.map((_, a) => rows.map(row => row[a]).filter(Boolean).map(entry => pictureIn(data.pictures.controls[entry.set], which, noise)).find(Boolean));
      if (controls.some(Boolean)) lines.push(h("tr", {class: "no-adapter"}, h("th", {scope: "row", text: "no adapter"}), controls.map(picture => cell(null, picture))));
      const table = h("table", {class: "pics" + (nearest.checked ? " pairwise" : "")}, h("thead", {}, h("tr", {}, h("td", {class: "corner"}), X.levels.map((_, a) => h("th", {scope: "col", text: label(X, a)})))), h("tbody", {}, lines));
      return [Z.key === null ? null : h("h3", {text: label(Z, c)}), scroll(`Picture grid${Z.key === null ? "" : ", " + label(Z, c)}`, table)];
    });
    place.replaceChildren(...tables.flat().filter(Boolean));
    const keys = used.map(own => own.key), differ = data.parameters.filter(name => !keys.includes(name) && !name.startsWith("label.") && new Set([...met].map(trial => JSON.stringify(trial.configuration[name]))).size > 1);
    said.textContent = (met.size ? `${met.size} trial${met.size > 1 ? "s" : ""}.` : "No trial has a picture of this prompt and noise in this file.") + (differ.length ? ` Also differ between pictures: ${differ.map(nameOf).join(", ")}.` : "");
  }
  const labelled = (text, control) => h("label", {class: "field"}, h("span", {text}), control);
  fillSeeds();
  section("grid", "Picture grid", quiet("The same prompt and noise everywhere. Of several trials with the same values the one that is most like the best stands here. The outlined picture is the closest by LPIPS; open one to see its trial."),
    h("div", {class: "tools fields"}, labelled("Columns", x), labelled("Rows", y), labelled("Tables", z), labelled("Prompt", prompt), labelled("Noise seed", seed), h("label", {class: "check"}, nearest, "nearest training image beside")), said, place);
  draw();
}
