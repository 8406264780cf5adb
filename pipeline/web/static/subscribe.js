// What the form does better with a script: the time zone, finding a topic, a preview at once.
"use strict";

(() => {
  const form = document.getElementById("subscribe");
  if (!form) return;

  const PAUSE = 350; // ms without a key, before a preview is asked for
  const PREVIEWED = ["topic", "queries", "frequency", "max_papers", "breadth"]; // never the address

  // --- The time zone ---------------------------------------------------------------------------

  const zones = form.querySelector("#timezone[data-guess]");
  const guess = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (guess && zones?.value === "UTC") { // not what somebody chose before going back
    zones.value = guess;
    if (zones.value !== guess) zones.add(new Option(guess, guess, true, true), 1);
  }

  // --- Finding a topic -------------------------------------------------------------------------

  const all = form.querySelector(".all");
  const find = form.querySelector("#find");
  const groups = [...all.querySelectorAll(".group")];
  const none = form.querySelector(".none");
  const openBefore = new Map();

  form.querySelector(".find").hidden = false;
  find.addEventListener("input", () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const group of groups) {
      if (!openBefore.has(group)) openBefore.set(group, group.open);
      const name = group.querySelector("summary").textContent.toLowerCase();
      let inGroup = 0;
      for (const tick of group.querySelectorAll(".tick")) {
        const text = `${tick.textContent.toLowerCase()} ${name}`;
        tick.hidden = !words.every((word) => text.includes(word));
        inGroup += !tick.hidden;
      }
      group.hidden = !inGroup;
      group.open = words.length ? true : openBefore.get(group);
      shown += inGroup;
    }
    if (!words.length) openBefore.clear();
    none.hidden = shown > 0;
  });
  find.addEventListener("keydown", (event) => {
    if (event.key === "Enter") event.preventDefault();
  });

  const schedule = form.querySelector("#schedule"); // not on the page of preferences
  const when = ["frequency", "hour", "timezone"].map((id) => form.querySelector(`#${id}`));
  const line = () => {
    const chosen = when.map((field) => field.selectedOptions[0]?.text.trim());
    if (schedule) schedule.textContent = chosen.filter(Boolean).join(", ");
  };
  line();

  const count = () => {
    for (const group of groups) {
      const chosen = group.querySelectorAll(":checked").length;
      const counter = group.querySelector(".count");
      counter.textContent = chosen ? counter.dataset.text.replace("#", chosen) : "";
    }
  };

  // --- The preview -----------------------------------------------------------------------------

  const section = form.querySelector(".preview");
  const result = form.querySelector("#preview-result");
  let waiting, asking, shownFor;

  const wanted = () => {
    const fields = new URLSearchParams();
    for (const [name, value] of new FormData(form)) {
      if (PREVIEWED.includes(name)) fields.append(name, value);
    }
    return fields.toString();
  };

  const preview = async () => {
    const fields = wanted();
    if (fields === shownFor) return;
    asking?.abort();
    asking = new AbortController();
    section.classList.add("busy");
    try {
      const answer = await fetch("/subscribe/preview", {
        method: "POST",
        headers: { "Content-Type": "application/x-www-form-urlencoded" },
        body: fields,
        signal: asking.signal,
      });
      if (answer.ok) shownFor = fields;
      if (!answer.ok && ![429, 503].includes(answer.status)) throw new Error(answer.status);
      result.innerHTML = await answer.text();
      section.classList.add("live");
    } catch (error) {
      if (error.name === "AbortError") return;
      section.classList.remove("live"); // the button still works
    }
    section.classList.remove("busy");
  };

  const soon = (delay) => {
    clearTimeout(waiting);
    waiting = setTimeout(preview, delay);
  };

  form.addEventListener("change", (event) => {
    if (event.target.name === "topic") count();
    if (when.includes(event.target)) line();
    if (PREVIEWED.includes(event.target.name)) soon(50);
  });
  result.addEventListener("click", (event) => {
    const button = event.target.closest("[name=adopt]");
    if (!button || !form.dataset.adopts) return; // else the button sends the form
    event.preventDefault();
    const [label, query] = button.value.split("\n");
    const own = form.querySelector("#queries");
    const lines = own.value.split("\n").filter((line) => line.trim());
    const ticks = [...form.querySelectorAll("[name=topic]:checked")];
    const tick = ticks.find((one) => one.parentNode.textContent.trim() === label);
    const at = lines.findIndex((line) => line.trim().toLowerCase() === label.toLowerCase());
    if (tick) tick.checked = false;
    if (at < 0) lines.push(query);
    else lines[at] = query;
    own.value = lines.join("\n");
    count();
    soon(0);
  });
  form.querySelector("#queries").addEventListener("input", () => soon(PAUSE));
  section.classList.add("live");
  if (result.querySelector(".rates")) shownFor = wanted(); // came with the page
  else preview();

  // --- Sending ---------------------------------------------------------------------------------

  const summary = document.getElementById("summary"); // where a browser knows no autofocus
  addEventListener("load", () => {
    if (document.activeElement === document.body) summary?.focus();
  });
  let sent = false;
  form.addEventListener("submit", (event) => {
    if (sent) event.preventDefault(); // a second press of an impatient thumb
    sent = true;
  });
  addEventListener("pageshow", () => { sent = false; }); // back from the next page
})();
