"use strict";
// The table of questions: filters, a list that renders only the rows in view, and the selected question.
// Text from the run is only ever set as text content.
(() => {
  const data = JSON.parse(document.getElementById("questions").textContent);
  if (data === null) return;
  const { columns, names, runs, pictures, mime, chunk, texts } = data;
  const total = columns.step.length;
  const rowHeight = 64;
  const rows = document.getElementById("rows");
  const spacer = document.getElementById("spacer");
  const detail = document.getElementById("detail");
  const form = document.getElementById("filters");
  const letter = (index) => String.fromCharCode(65 + index);

  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  };
  const foreign = (tag, text, className = "") => element(tag, { className: ("foreign " + className).trim(), textContent: text });
  const name = (index) => (index < 0 ? "" : names[index]);

  // ------------------------------------------------------------------ results of a question

  const result = (at) => {
    if (columns.options[at].length === 0 || columns.reason[at] >= 0) return "none";
    return 2 * columns.right[at] > columns.rollouts[at] ? "right" : "wrong";
  };
  const truthStatus = (at) => {
    if (columns.options[at].length === 0) return "none";
    if (columns.injected[at]) return "injected";
    return columns.answer[at] >= 0 ? "voted" : "missing";
  };
  const answered = (at, text) => {
    const said = [columns.votes[at], columns.unknown[at]].some((flat) => flat.some((part, index) => index % 2 === 0 && names[part] === text));
    const chosen = [...columns.choices[at]].some((choice) => {
      const option = columns.options[at][choice.charCodeAt(0) - 65];
      return option !== undefined && names[option] === text;
    });
    return said || chosen;
  };
  const words = {
    right: "✓ right", wrong: "✗ wrong", none: "no question",
    injected: "yes, injected", voted: "yes, voted for or a filler", missing: "no",
    0: "validation", 1: "training",
  };

  // ------------------------------------------------------------------ filters

  const distinct = (column) => [...new Set(column)];
  const byName = (a, b) => name(a).localeCompare(name(b));
  const choices = [
    { key: "run", label: "Run", values: runs.map((_, index) => index), text: (value) => runs[value], of: (at) => columns.run[at] },
    { key: "source", label: "Data source", values: distinct(columns.source).sort(byName), text: name, of: (at) => columns.source[at] },
    { key: "training", label: "Split", values: distinct(columns.training).sort(), text: (value) => words[value], of: (at) => columns.training[at] },
    { key: "step", label: "Step", values: distinct(columns.step).sort((a, b) => a - b), text: String, of: (at) => columns.step[at] },
    { key: "result", label: "Result", values: ["right", "wrong", "none"], text: (value) => words[value], of: result },
    { key: "truth", label: "True class among the options", values: ["voted", "injected", "missing"], text: (value) => words[value], of: truthStatus },
    { key: "reason", label: "Reason for no question", values: distinct(columns.reason).filter((value) => value >= 0).sort(byName), text: name, of: (at) => columns.reason[at] },
    { key: "votes_from", label: "Votes from", values: distinct(columns.votes_from).filter((value) => value >= 0).sort(byName), text: name, of: (at) => columns.votes_from[at] },
    { key: "option_source", label: "Options from", values: distinct(columns.option_source).filter((value) => value >= 0).sort(byName), text: name, of: (at) => columns.option_source[at] },
  ].filter((choice) => choice.values.length > (choice.key === "reason" ? 0 : 1));
  const inputs = [
    { key: "class", label: "True class", list: "classes", test: (at, text) => name(columns.truth[at]) === text },
    { key: "answered", label: "Class answered or chosen", list: "answers", test: answered },
    { key: "image", label: "Image id", list: null, test: (at, text) => name(columns.image[at]).toLowerCase().includes(text.toLowerCase()) },
  ];

  const fields = {};
  const addField = (key, label, field) => {
    field.name = key;
    fields[key] = field;
    form.append(element("label", {}, element("span", { textContent: label }), field));
  };
  for (const choice of choices) {
    const field = element("select", {}, element("option", { value: "", textContent: "all" }));
    choice.values.forEach((value, index) => field.append(element("option", { value: String(index), textContent: choice.text(value) })));
    addField(choice.key, choice.label, field);
  }
  const suggestions = (id, indexes) => {
    const list = element("datalist", { id });
    for (const index of indexes) list.append(element("option", { value: names[index] }));
    form.append(list);
  };
  for (const input of inputs) {
    const field = element("input", { type: "search", placeholder: input.list ? "all" : "part of the id", spellcheck: false });
    if (input.list) field.setAttribute("list", input.list);
    addField(input.key, input.label, field);
  }
  suggestions("classes", distinct(columns.truth).sort(byName));
  suggestions("answers", distinct([...columns.truth, ...columns.options.flat()]).sort(byName));

  let found = [];
  let chosen = -1; // index in `found`
  const passes = () => {
    const tests = [];
    for (const choice of choices) {
      if (fields[choice.key].value === "") continue;
      const wanted = choice.values[Number(fields[choice.key].value)];
      tests.push((at) => choice.of(at) === wanted);
    }
    for (const input of inputs) {
      const text = fields[input.key].value.trim();
      if (text !== "") tests.push((at) => input.test(at, text));
    }
    return (at) => tests.every((test) => test(at));
  };
  const filter = () => {
    const selected = chosen >= 0 ? found[chosen] : undefined;
    const test = passes();
    found = [];
    for (let at = 0; at < total; at++) if (test(at)) found.push(at);
    const count = (number) => number.toLocaleString("en");
    document.getElementById("found").textContent = found.length === total ? count(total) + " questions" : count(found.length) + " of " + count(total) + " questions";
    spacer.style.height = found.length * rowHeight + "px";
    rows.scrollTop = 0;
    look(Math.max(found.indexOf(selected), found.length ? 0 : -1));
  };

  // ------------------------------------------------------------------ the list

  const thumbnail = (at) => {
    const picture = columns.picture[at] < 0 ? null : pictures[columns.picture[at]];
    if (!picture) return element("span", { className: "thumbnail none", title: "no picture" });
    return element("img", { className: "thumbnail", src: "data:" + mime + ";base64," + picture, alt: "", decoding: "async" });
  };
  const badge = (at) => {
    const kind = result(at);
    if (kind === "none") return foreign("span", name(columns.reason[at]) || "no question", "badge");
    const share = columns.rollouts[at] > 1 ? " " + columns.right[at] + "/" + columns.rollouts[at] : "";
    return element("span", { className: "badge " + (kind === "right" ? "good" : "bad"), textContent: words[kind] + share });
  };
  const context = (at) => [
    runs.length > 1 ? runs[columns.run[at]] : null,
    (columns.training[at] ? "training" : "validation") + " step " + columns.step[at],
    name(columns.image[at]),
    name(columns.source[at]),
  ].filter(Boolean).join(" · ");
  const brief = (at) => [runs.length > 1 ? runs[columns.run[at]] : null, (columns.training[at] ? "train " : "val ") + columns.step[at], name(columns.image[at])].filter(Boolean).join(" · ");
  const row = (index) => {
    const at = found[index];
    const made = element("div", { className: "row", id: "row-" + index },
      thumbnail(at),
      element("div", { className: "about" }, foreign("strong", name(columns.truth[at])), foreign("small", brief(at))),
      element("div", { className: "badges" }, badge(at), columns.injected[at] ? element("span", { className: "badge plain", textContent: "injected" }) : null));
    made.style.top = index * rowHeight + "px";
    made.setAttribute("role", "option");
    made.setAttribute("aria-selected", String(index === chosen));
    made.setAttribute("aria-posinset", String(index + 1));
    made.setAttribute("aria-setsize", String(found.length));
    made.addEventListener("click", () => look(index));
    return made;
  };
  const drawRows = () => {
    const first = Math.max(0, Math.floor(rows.scrollTop / rowHeight) - 3);
    const last = Math.min(found.length, Math.ceil((rows.scrollTop + rows.clientHeight) / rowHeight) + 3);
    spacer.replaceChildren(...Array.from({ length: Math.max(0, last - first) }, (_, index) => row(first + index)));
    if (chosen >= 0) rows.setAttribute("aria-activedescendant", "row-" + chosen);
    else rows.removeAttribute("aria-activedescendant");
  };
  const intoView = (index) => {
    if (index * rowHeight < rows.scrollTop) rows.scrollTop = index * rowHeight;
    const below = (index + 1) * rowHeight - rows.clientHeight;
    if (below > rows.scrollTop) rows.scrollTop = below;
  };
  const look = (index) => {
    chosen = index;
    if (index >= 0) intoView(index);
    drawRows();
    show(index < 0 ? -1 : found[index]);
  };

  // ------------------------------------------------------------------ one question

  const unpacked = new Map();
  const unpack = async (number) => {
    if (typeof DecompressionStream === "undefined") throw new Error("this browser cannot unpack them");
    const bytes = Uint8Array.from(atob(texts[number]), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  };
  const textsOf = async (at) => {
    const number = Math.floor(at / chunk);
    if (number >= texts.length) return [];
    if (!unpacked.has(number)) unpacked.set(number, unpack(number));
    return (await unpacked.get(number))[at % chunk];
  };

  const bars = (at) => {
    const truth = name(columns.truth[at]);
    const pairs = (flat, kind) => Array.from({ length: flat.length / 2 }, (_, index) => [names[flat[2 * index]], flat[2 * index + 1], kind]);
    const answers = [...pairs(columns.votes[at], "other"), ...pairs(columns.unknown[at], "unknown")].sort((a, b) => b[1] - a[1]);
    if (columns.rest[at]) answers.push(["other answers", columns.rest[at], "rest"]);
    if (columns.unanswered[at]) answers.push(["no answer", columns.unanswered[at], "none"]);
    const samples = answers.reduce((sum, [, count]) => sum + count, 0);
    const list = element("ul", { className: "votes" });
    for (const [text, count, kind] of answers) {
      const isTruth = kind === "other" && text === truth;
      const bar = element("i");
      bar.style.width = (100 * count) / samples + "%";
      const label = foreign("span", text, "label");
      if (isTruth) label.append(" ", element("em", { textContent: "truth" }));
      if (kind === "unknown") label.append(" ", element("em", { textContent: "not in the class list" }));
      list.append(element("li", { className: isTruth ? "truth" : kind }, label, element("span", { className: "value", textContent: count }), element("span", { className: "track" }, bar)));
    }
    const title = element("h5", { textContent: samples ? "Answers of " + samples + " samples" : "Answers" });
    return [title, answers.length ? list : element("p", { className: "missing", textContent: "No samples were recorded." })];
  };

  const options = (at) => {
    const shown = columns.options[at];
    if (shown.length === 0) {
      const why = element("p", { className: "missing", textContent: "No question: " });
      why.append(foreign("code", name(columns.reason[at]) || "no reason recorded"));
      return [element("h5", { textContent: "Options" }), why];
    }
    const list = element("ol", { className: "options" });
    const picks = [...columns.choices[at]];
    shown.forEach((option, index) => {
      const isTruth = index === columns.answer[at];
      const picked = picks.filter((choice) => choice === letter(index)).length;
      const item = element("li", { className: (picked ? "chosen " : "") + (isTruth ? "truth" : "") }, element("b", { textContent: letter(index) }), " ", foreign("span", names[option]));
      if (isTruth) item.append(" ", element("em", { textContent: columns.injected[at] ? "truth, injected" : "truth" }));
      if (picked) item.append(element("em", { className: "pick " + (isTruth ? "good" : "bad"), textContent: (isTruth ? "✓" : "✗") + " chosen" + (columns.rollouts[at] > 1 ? " " + picked + " of " + columns.rollouts[at] : "") }));
      list.append(item);
    });
    const notes = [];
    if (columns.answer[at] < 0) notes.push("The true class is not among the options.");
    const noOption = picks.filter((choice) => choice === "-").length;
    if (noOption) notes.push(noOption + (noOption === 1 ? " completion names" : " completions name") + " no option.");
    const failed = columns.rollouts[at] - picks.length;
    if (failed > 0) notes.push(failed + (failed === 1 ? " rollout" : " rollouts") + " failed.");
    return [element("h5", { textContent: "Options and choice" }), list, ...notes.map((note) => element("p", { className: "note", textContent: note }))];
  };

  const link = (at) => {
    const named = { image: name(columns.image[at]), source: name(columns.source[at]), step: columns.step[at], run: runs[columns.run[at]] };
    return element("a", { href: "#" + new URLSearchParams(named), textContent: "link to this question" });
  };
  const facts = (at) => {
    const known = [
      ["policy version", columns.version[at]], ["votes from", name(columns.votes_from[at]) || null], ["vote age", columns.vote_age[at]],
      ["options from", name(columns.option_source[at]) || null], ["options asked for", columns.num_options[at]],
    ].filter(([, value]) => value !== null && value !== undefined);
    const list = element("dl", { className: "known" });
    for (const [label, value] of known) list.append(element("div", {}, element("dt", { textContent: label }), foreign("dd", String(value))));
    return list;
  };

  // The same image at other steps of the run shows what training changed.
  const histories = new Map();
  const identity = (at) => columns.run[at] + " " + columns.source[at] + " " + columns.image[at];
  for (let at = 0; at < total; at++) {
    if (!histories.has(identity(at))) histories.set(identity(at), []);
    histories.get(identity(at)).push(at);
  }
  const history = (at) => {
    const same = histories.get(identity(at));
    if (same.length < 2) return null;
    const list = element("p", { className: "history" }, element("span", { textContent: "This image at: " }));
    for (const other of same) {
      const kind = result(other);
      const button = element("button", { type: "button", textContent: "step " + columns.step[other] + (kind === "right" ? " ✓" : kind === "wrong" ? " ✗" : " –") });
      if (other === at) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => {
        chosen = found.indexOf(other);
        if (chosen >= 0) intoView(chosen);
        drawRows();
        show(other);
      });
      list.append(button);
    }
    return list;
  };

  let shownAt = -1;
  const show = async (at) => {
    shownAt = at;
    if (at < 0) {
      detail.replaceChildren(element("p", { className: "missing", textContent: "No question matches these filters." }));
      return;
    }
    const picture = thumbnail(at);
    picture.className = "large";
    if (picture.tagName === "IMG") picture.alt = "Picture of class " + name(columns.truth[at]);
    else picture.textContent = "no picture";
    const completionList = element("div", { className: "completions" });
    detail.replaceChildren(...[
      element("header", {}, picture, element("div", {}, badge(at), foreign("h3", name(columns.truth[at])), foreign("small", context(at)), facts(at), link(at))),
      history(at),
      element("div", { className: "columns" }, element("section", { className: "view" }, ...bars(at)), element("section", { className: "view" }, ...options(at))),
      completionList,
    ].filter(Boolean));
    detail.scrollTop = 0;
    let completions;
    try {
      completions = await textsOf(at);
    } catch (error) {
      completionList.replaceChildren(element("p", { className: "missing", textContent: "The completions cannot be shown: " + error.message }));
      return;
    }
    if (shownAt !== at) return;
    const blocks = completions.map((text, index) => {
      const choice = columns.choices[at][index];
      const reward = columns.rewards[at][index];
      const title = [completions.length > 1 ? "Completion " + (index + 1) : "Completion", choice === undefined ? null : choice === "-" ? "no option" : "chose " + choice, reward === undefined || reward === null ? null : "reward " + reward].filter(Boolean).join(" · ");
      return element("div", { className: "text" }, element("h5", { textContent: title }), text === "" ? element("p", { className: "missing", textContent: "The completion is empty." }) : foreign("pre", text));
    });
    completionList.replaceChildren(...(blocks.length ? blocks : columns.options[at].length ? [element("p", { className: "missing", textContent: "No completion was kept." })] : []));
  };

  // ------------------------------------------------------------------ events

  let drawing = false;
  rows.addEventListener("scroll", () => {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => { drawing = false; drawRows(); });
  });
  rows.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(rows.clientHeight / rowHeight) - 1);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -total, End: total };
    if (!(event.key in moves) || !found.length) return;
    event.preventDefault();
    look(Math.min(found.length - 1, Math.max(0, chosen + moves[event.key])));
  });
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("reset").addEventListener("click", () => { form.reset(); filter(); });
  window.addEventListener("resize", drawRows);
  // A click on a cell of the confusion matrix shows its questions.
  document.addEventListener("divek-questions", (event) => {
    form.reset();
    const { run, source, truth, answer } = event.detail;
    const pick = (key, text) => {
      const choice = choices.find((one) => one.key === key);
      if (choice) fields[key].value = String(choice.values.findIndex((value) => choice.text(value) === text));
    };
    pick("run", run);
    pick("source", source);
    pick("training", "validation");
    fields.class.value = truth;
    fields.answered.value = answer;
    filter();
    document.getElementById("all-questions").scrollIntoView({ behavior: "smooth" });
  });

  document.getElementById("browser").hidden = false;
  filter();
  // A link such as #image=1&source=divek/flags/base&step=30 shows a question, one such as #class=Chad filters.
  const follow = () => {
    const wanted = new URLSearchParams(location.hash.slice(1));
    if (!wanted.has("image") && !wanted.has("class")) return;
    const is = (key, text) => !wanted.has(key) || wanted.get(key) === text;
    form.reset();
    fields.class.value = wanted.get("class") || "";
    filter();
    look(found.findIndex((at) => is("image", name(columns.image[at])) && is("source", name(columns.source[at])) && is("step", String(columns.step[at])) && is("run", runs[columns.run[at]])));
    document.getElementById("all-questions").scrollIntoView();
  };
  window.addEventListener("hashchange", follow);
  follow();
})();
