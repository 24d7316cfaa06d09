/* What the console does in the browser beside htmx: instants in the reader's own zone, and keys that are copied. */
(() => {
  "use strict";
  htmx.config.allowEval = false; // Conditions in attributes would be code that the policy refuses.
  htmx.config.includeIndicatorStyles = false; // The policy refuses a style that a script writes into the page.

  const WRITTEN = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d(?::\d\d)?)$/; // As the server writes instants, in UTC.
  const two = (number) => String(number).padStart(2, "0");

  function inOwnZone(at, withSeconds) {
    const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
    return `${day} ${two(at.getHours())}:${two(at.getMinutes())}${withSeconds ? `:${two(at.getSeconds())}` : ""}`;
  }

  function showTime(element, at, utc) {
    element.title = `${utc} UTC`;
    const seconds = utc.length > 16;
    const own = inOwnZone(at, seconds);
    element.textContent = element.dataset.show === "time" ? own.slice(11) : own;
    element.dataset.own = "";
  }

  function showTimes(root) {
    for (const element of root.querySelectorAll("time[datetime]:not([data-own])")) {
      const at = new Date(element.dateTime);
      showTime(element, at, at.toISOString().slice(0, 19).replace("T", " "));
    }
    for (const cell of root.querySelectorAll("#result_list td, #result_list th, .readonly, .inline-group td p, .gf-at")) {
      const inner = cell.children.length === 1 && cell.firstElementChild.children.length === 0 ? cell.firstElementChild : cell;
      if ("own" in inner.dataset) continue; // It is in the reader's zone already: this runs for each part that comes.
      const written = inner.children.length === 0 && inner.textContent.trim().match(WRITTEN);
      if (written) showTime(inner, new Date(`${written[1]}T${written[2]}Z`), written[0]);
    }
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
    for (const element of root.querySelectorAll("[data-zone]")) element.textContent = zone;
  }

  // The cells of a cluster are fetched when it is opened, and again as long as it is open.
  function fetchCells(selector) {
    for (const cells of document.querySelectorAll(`${selector} .gf-cells`)) htmx.trigger(cells, "gf-cells");
  }

  // A form is sent once, however often its button is pressed; whoever comes back to the page may send it again.
  function sendOnce(event) {
    const form = event.target;
    if (event.defaultPrevented || form.method !== "post") return; // htmx sends its own.
    if ("sent" in form.dataset) event.preventDefault();
    form.dataset.sent = "";
  }

  function allowAgain() {
    for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
  }

  async function copy(button) {
    const from = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(from.textContent.trim());
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(from);
      button.textContent = "Selected: press Ctrl-C";
    }
  }

  // unfold's shortcuts are keys alone, which also act while somebody types in a choice or speaks to the computer.
  function withCtrl(key) {
    return function (event) {
      if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== key) return;
      event.preventDefault();
      this.$refs.searchInput.focus();
    };
  }

  // What unfold's pages ask Alpine for. Its build for strict policies knows no globals and takes one step an attribute.
  document.addEventListener("alpine:init", () => {
    Alpine.data("theme", theme);
    Alpine.data("searchForm", () => ({ ...searchForm(), applyShortcut: withCtrl("/") }));
    Alpine.data("shell", (tab = "") => ({
      activeTab: tab,
      sidebarMobileOpen: false,
      sidebarDesktopOpen: localStorage.getItem("sidebarDesktopOpen") !== "0",
      window: { location: { pathname: location.pathname, search: location.search } },
      init() {
        this.activeTab = (tab && getCurrentTab()) || tab;
        this.$watch("sidebarDesktopOpen", (open) => localStorage.setItem("sidebarDesktopOpen", open ? "1" : "0"));
      },
    }));
    Alpine.data("searchDropdown", () => ({
      ...searchDropdown(),
      applyShortcut: withCtrl("k"),
      openResults() {
        this.openSearchResults = true;
        this.currentIndex = 0;
      },
      leaveResults() {
        this.openSearchResults = false;
        if (this.$refs.searchInput.value === "") this.$refs.searchInput.blur();
        else this.$refs.searchInput.value = "";
      },
    }));
  });

  setInterval(() => fetchCells(".gf-cluster[open]"), 10000);
  document.addEventListener("toggle", (event) => {
    if (event.target.matches(".gf-cluster[open]")) fetchCells(`#${event.target.id}`);
  }, true);
  document.addEventListener("DOMContentLoaded", () => showTimes(document));
  // Django's two lists give their hints as the names of spans, which only images may have.
  const nameHints = () => {
    for (const hint of document.querySelectorAll("span.help-tooltip[aria-label]")) hint.setAttribute("role", "img");
  };
  addEventListener("load", () => setTimeout(nameHints)); // The lists are made when the page is there, too.
  document.addEventListener("htmx:load", (event) => showTimes(event.target));
  // A part that could not be fetched says so until it comes after all.
  for (const lost of ["htmx:sendError", "htmx:responseError", "htmx:timeout"]) {
    document.addEventListener(lost, (event) => event.target.closest("section")?.querySelector("[data-lost]")?.removeAttribute("hidden"));
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
  });
  document.addEventListener("submit", sendOnce);
  addEventListener("pageshow", allowAgain);
})();
