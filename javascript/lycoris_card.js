/* One card of the grid: created once, then rebound when its row is recycled. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const el = (...args) => lycoris.el(...args); // scripts may come in any order

    function make() {
        const part = {
            media: el("div.lycoris-frame"),
            badges: el("div.lycoris-badges"),
            reason: el("div.lycoris-reason"),
            weight: el("span.lycoris-weight"),
            name: el("div.lycoris-name"),
            sub: el("div.lycoris-sub"),
            star: lycoris.iconButton("star", "Star", { "data-act": "star", tabindex: "-1", "aria-pressed": "false" }),
            info: lycoris.iconButton("info", "Details", { "data-act": "details", tabindex: "-1" }),
        };
        const frame = el("div.lycoris-thumb", {}, part.media, part.badges, part.reason, part.weight);
        const tools = el("div.lycoris-tools", {}, part.star, part.info);
        const node = el(
            "div.lycoris-cell",
            { role: "gridcell", tabindex: "-1", "data-act": "toggle" },
            frame,
            el("div.lycoris-label", {}, part.name, part.sub),
            tools,
        );
        return { node, part, card: null, shown: null };
    }

    function badges(card) {
        const found = [];
        if (card.family && card.family !== "unknown")
            found.push(el("span.lycoris-badge.lycoris-badge-family", {}, lycoris.family(card.family)));
        const names = card.algorithms || [];
        const more = names.length > 1 ? ` +${names.length - 1}` : "";
        if (names.length) found.push(el("span.lycoris-badge", { title: names.join(", ") }, names[0] + more));
        if (card.name.includes("/")) {
            const why = `Several files are called like this one, so the tag says ${card.name}.`;
            found.push(el("span.lycoris-badge.lycoris-badge-clash", { title: why }, "same name"));
        }
        return found;
    }

    function bind(cell, card) {
        const { part } = cell;
        cell.card = card;
        cell.shown = null;
        part.badges.replaceChildren(...badges(card));
        part.name.textContent = card.name;
        part.name.title = [card.title, card.file].filter(Boolean).join("\n");
        part.star.classList.toggle("lycoris-on", !!card.star);
        part.star.setAttribute("aria-pressed", String(!!card.star));
        part.star.setAttribute("aria-label", `${card.star ? "Unstar" : "Star"} ${card.name}`);
        part.info.setAttribute("aria-label", `Details of ${card.name}`);
        cell.node.dataset.id = card.id;
    }

    /** Load the image separately, not during fast scrolling. */
    function show(cell, store) {
        const { card } = cell;
        const key = `${card.id}/${card.preview ? card.preview.v : card.name}/${card.error ? 1 : 0}`;
        if (cell.shown === key) return;
        cell.shown = key;
        cell.part.media.replaceChildren(lycoris.media(card, store));
    }

    /** What changes without the card changing: is it in the prompt, and does it fit the loaded model. */
    function mark(cell, tag, model) {
        const { card, node, part } = cell;
        const misfit = card.error ? "" : lycoris.misfit(card, model);
        const reason = card.error || misfit;
        const folder = card.name.includes("/") ? "" : card.dir;
        node.classList.toggle("lycoris-active", !!tag);
        node.classList.toggle("lycoris-broken", !!card.error);
        node.classList.toggle("lycoris-misfit", !!misfit);
        node.setAttribute("aria-selected", String(!!tag));
        part.reason.textContent = card.error || "";
        part.reason.title = card.error || "";
        part.sub.textContent = misfit ? lycoris.misfit(card, model, true) : folder;
        part.sub.title = misfit || card.dir;
        part.weight.textContent = tag
            ? `in prompt${tag.off ? " · off" : Number.isFinite(tag.te) ? ` · ${lycoris.number(tag.te)}` : ""}`
            : "";
        const said = [card.name, lycoris.family(card.family), (card.algorithms || []).join(" "), reason];
        node.setAttribute(
            "aria-label",
            said
                .concat(tag ? "in the prompt" : "")
                .filter(Boolean)
                .join(", "),
        );
    }

    lycoris.card = { make, bind, show, mark };
})();
