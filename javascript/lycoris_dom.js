/* Elements and icons. Strings become text nodes or attributes, never HTML. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const SVG = "http://www.w3.org/2000/svg";

    const PATHS = {
        star: "M12 3.6l2.6 5.3 5.8.8-4.2 4.1 1 5.8-5.2-2.7-5.2 2.7 1-5.8L3.6 9.7l5.8-.8z",
        info: "M12 11v6M12 7.2v.1M12 21a9 9 0 100-18 9 9 0 000 18z",
        search: "M16 16l4.5 4.5M11 18a7 7 0 100-14 7 7 0 000 14z",
        close: "M6 6l12 12M18 6L6 18",
        folder: "M3.5 6.5h6l2 2.5h9v9.5h-17z",
        chevron: "M9.5 6l6 6-6 6",
        refresh: "M19.5 12a7.5 7.5 0 11-2.2-5.3M19.5 3.5v4.2h-4.2",
        filter: "M4 6h16M7 12h10M10 18h4",
        up: "M12 19V5M6 11l6-6 6 6",
        down: "M12 5v14M6 13l6 6 6-6",
        copy: "M9 9h11v11H9zM5 15H4V4h11v1",
        warning: "M12 4l9 16H3zM12 10.5v4M12 17.2v.1",
        image: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4",
        chain: "M10 8H7.5a4 4 0 000 8H10M14 8h2.5a4 4 0 010 8H14M9 12h6",
        size: "M4 4h7v7H4zM15 4h5v5h-5zM4 15h5v5H4zM13 13h7v7h-7z",
    };

    function put(node, name, value) {
        if (value === undefined || value === null || value === false) return;
        if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
        else if (name in { value: 1, checked: 1, disabled: 1, muted: 1, loop: 1 }) node[name] = value;
        else node.setAttribute(name, value === true ? "" : String(value));
    }

    /**
     * One element: el("button.lycoris-x", {title: "…", onclick: f}, "text", child).
     * Skip children that are null or false; convert those that are not nodes to text.
     */
    lycoris.el = function (spec, props, ...children) {
        const [tag, ...classes] = spec.split(".");
        const node = document.createElement(tag);
        if (classes.length) node.className = classes.join(" ");
        for (const [name, value] of Object.entries(props || {})) put(node, name, value);
        node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
        return node;
    };

    lycoris.icon = function (name) {
        const svg = document.createElementNS(SVG, "svg");
        const path = document.createElementNS(SVG, "path");
        svg.setAttribute("viewBox", "0 0 24 24");
        svg.setAttribute("aria-hidden", "true");
        svg.setAttribute("class", `lycoris-icon lycoris-icon-${name}`);
        path.setAttribute("d", PATHS[name]);
        svg.append(path);
        return svg;
    };

    /** A button that shows an icon; `label` is what is read out and shown as a tip. */
    lycoris.iconButton = (name, label, props = {}) =>
        lycoris.el(
            "button.lycoris-icon-button",
            { type: "button", title: label, "aria-label": label, ...props },
            lycoris.icon(name),
        );

    /** At most one call per frame; hidden pages get no frames, so a timer stands in for them. */
    lycoris.perFrame = function (work) {
        let due = false;
        const run = () => {
            if (!due) return;
            due = false;
            work();
        };
        return () => {
            if (due) return;
            due = true;
            if (document.visibilityState === "visible") requestAnimationFrame(run);
            else setTimeout(run, 50);
        };
    };

    /** What is typed meanwhile would be lost, since the answer takes its place: so nothing can be. */
    lycoris.inertUntil = async function (node, answer) {
        const focused = document.activeElement;
        node.inert = true;
        try {
            return await answer;
        } finally {
            node.inert = false;
            if (node.contains(focused)) focused.focus();
        }
    };

    lycoris.plural = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
})();
