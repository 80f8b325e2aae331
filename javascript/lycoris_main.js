/* Entry point: find the tab containers whenever the web UI changes the page, and initialize each once. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const THROTTLE_MS = 200;

    let shared = null;
    lycoris.choices = () => (shared = shared || new lycoris.Choices());

    let pages = [];

    function look() {
        const root = typeof gradioApp === "function" ? gradioApp() : document;
        for (const gone of pages.filter((page) => !page.shell.isConnected)) gone.close();
        pages = pages.filter((page) => page.shell.isConnected);
        for (const shell of root.querySelectorAll(".lycoris-tab:not([data-ready])"))
            pages.push(new lycoris.Page(shell));
    }

    const pull = () => pages.forEach((page) => page.visible() && page.store.pull());

    function throttled(work) {
        let timer = 0;
        return () => {
            timer =
                timer ||
                setTimeout(() => {
                    timer = 0;
                    work();
                }, THROTTLE_MS);
        };
    }

    /** The host's own hooks where it has them; one observer on a page without a host. */
    function start() {
        if (typeof onUiLoaded === "function") onUiLoaded(look);
        if (typeof onAfterUiUpdate === "function") onAfterUiUpdate(look);
        else if (typeof onUiUpdate === "function") onUiUpdate(throttled(look));
        else new MutationObserver(throttled(look)).observe(document.body, { childList: true, subtree: true });
        if (typeof onOptionsChanged === "function") onOptionsChanged(pull); // another model may be loaded now
        look();
    }

    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
    else start();
})();
