// Keeps the live part of a page as the server has it. Pages work without this script: then a reload shows what is new.
"use strict";

(() => {
  const PAUSE_MS = 1000;
  const PATIENCE_MS = 4000;
  const live = document.getElementById("live");
  const connection = document.getElementById("connection");

  // Buttons that only a script can serve are shown by it.
  document.documentElement.classList.add("scripted");
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copies]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copies).textContent);
      button.textContent = "Copied";
    } catch (error) {
      button.textContent = "The browser does not let it copy: take the text below";
    }
  });

  if (!live || !live.dataset.changes) return;

  let due = false;
  let busy = false;

  // A person who uses the keyboard stays where they are: the same element has the focus after the part was replaced.
  function nameOf(element) {
    if (element.id) return `#${CSS.escape(element.id)}`;
    const href = element.getAttribute("href");
    return href === null ? "" : `${element.tagName}[href="${CSS.escape(href)}"]`;
  }

  function replace(fresh) {
    const focused = live.contains(document.activeElement) ? nameOf(document.activeElement) : "";
    const open = [...live.querySelectorAll("details[id][open]")].map((each) => each.id);
    live.replaceChildren(...fresh.childNodes);
    for (const id of open) {
      const details = document.getElementById(id);
      if (details) details.open = true;
    }
    const again = focused && live.querySelector(focused);
    if (again) again.focus({ preventScroll: true });
  }

  // What somebody has marked to copy is not taken away under their hands.
  function marked() {
    const selection = window.getSelection();
    return Boolean(selection && !selection.isCollapsed && live.contains(selection.anchorNode));
  }

  async function update() {
    if (busy || !due || document.hidden) return;
    if (marked()) {
      setTimeout(update, PAUSE_MS);
      return;
    }
    busy = true;
    due = false;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("live");
      if (fresh) {
        replace(fresh);
        document.getElementById("as-of").textContent = page.getElementById("as-of").textContent;
        connection.textContent = "";
      } else {
        connection.textContent = `· not up to date: the console answered ${answer.status}; reload the page`;
      }
    } catch (error) {
      connection.textContent = "· not up to date: the console does not answer";
      due = true;
    } finally {
      busy = false;
      setTimeout(update, PAUSE_MS);
    }
  }

  let changes = null;
  let waiting = null;

  function unwatch() {
    if (changes) changes.close();
    changes = null;
    clearTimeout(waiting);
    waiting = null;
  }

  // A browser has six connections for one server: pages that nobody looks at must not keep them from the others.
  function watch() {
    unwatch();
    if (document.hidden) return;
    changes = new EventSource(live.dataset.changes);
    changes.addEventListener("changed", () => {
      due = true;
      update();
    });
    // Each stream ends after some seconds, and the browser asks for the next one: only if that fails it is said.
    changes.addEventListener("error", () => {
      waiting = waiting || setTimeout(() => {
        connection.textContent = "· not up to date: no connection to the console";
      }, PATIENCE_MS);
    });
    changes.addEventListener("open", () => {
      clearTimeout(waiting);
      waiting = null;
      connection.textContent = "";
    });
  }

  // What changed while nobody looked is not known: the page is looked at anew when somebody comes back to it.
  function again() {
    watch();
    if (document.hidden) return;
    due = true;
    update();
  }

  document.addEventListener("visibilitychange", again);
  // A page in the back-forward cache has no connection either.
  window.addEventListener("pagehide", unwatch);
  window.addEventListener("pageshow", (event) => event.persisted && again());
  watch();
})();
