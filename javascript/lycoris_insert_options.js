/* Sections of the details dialog for the inserted text (weight, trigger words, training tags) and the preview. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const sections = (lycoris.sections = lycoris.sections || {});
    const el = (...args) => lycoris.el(...args);

    const text = (dialog) => {
        const { page, card } = dialog;
        const tag = lycoris.tag(card.tag, page.choices.weight(card), card.kind);
        return [tag, page.choices.words(card)].filter(Boolean).join(" ");
    };

    sections.use = function (dialog) {
        const { page, card } = dialog;
        const written = el("code.lycoris-written-tag");
        const weight = el("input.lycoris-input.lycoris-weight-input", {
            type: "number",
            step: "0.05",
            value: page.choices.weight(card),
            "aria-label": "Weight a click writes",
            oninput: () => {
                const value = weight.valueAsNumber;
                page.choices.set(card, { weight: Number.isFinite(value) ? value : undefined });
                dialog.written();
            },
        });
        const insert = el("button.lycoris-button.lycoris-primary", {
            type: "button",
            onclick: () => {
                dialog.say(page.inserter.toggle(dialog.card));
                dialog.written();
            },
        });
        dialog.written = () => {
            written.textContent = text(dialog);
            insert.textContent = page.inserter.tagsOf(dialog.card).length
                ? "Remove from the prompt"
                : "Add to the prompt";
        };
        dialog.written();
        return lycoris.section(
            "A click writes",
            written,
            el(
                "div.lycoris-line",
                {},
                el("label.lycoris-line", {}, "Weight", weight),
                insert,
                lycoris.copyButton("Copy", () => text(dialog), dialog),
            ),
        );
    };

    function chip(dialog, word, note) {
        const { page } = dialog;
        const node = el(
            "button.lycoris-chip",
            {
                type: "button",
                "aria-pressed": String(page.choices.chosen(dialog.card).includes(word)),
                onclick: () => {
                    const now = page.choices.chosen(dialog.card);
                    const on = !now.includes(word);
                    page.choices.set(dialog.card, { words: on ? [...now, word] : now.filter((item) => item !== word) });
                    node.setAttribute("aria-pressed", String(on));
                    dialog.written();
                },
            },
            el("span", {}, word),
            note !== undefined && el("span.lycoris-count", {}, note),
        );
        return node;
    }

    const FROM = { sidecar: "Saved beside the file", civitai: "From Civitai", modelspec: "From the trainer" };

    /** The chips of the words a click offers, then what other sources say. */
    sections.words = function (dialog) {
        const { page, card, found } = dialog;
        const chosen = page.choices.chosen(card);
        const offered = [...new Set([...page.choices.offered(card), ...chosen])];
        const others = (found.sources || []).filter((source) => source.source !== "training"); // these are below
        const groups = others
            .map((source) => {
                const words = source.words.length === 1 ? lycoris.pieces(source.words[0]) : source.words;
                return [
                    FROM[source.source] || source.source,
                    words.filter((word) => !offered.includes(word)).slice(0, 60),
                ];
            })
            .filter(([, words]) => words.length);
        const chips = (words) => el("div.lycoris-chips", {}, ...words.map((word) => chip(dialog, word)));
        const none = el(
            "p.lycoris-quiet",
            {},
            "This file names no trigger words. Training tags below can be chosen, or save your own.",
        );
        return lycoris.section(
            "Trigger words a click adds",
            offered.length ? chips(offered) : none,
            ...groups.flatMap(([name, words]) => [el("div.lycoris-caption", {}, name), chips(words)]),
        );
    };

    sections.training = function (dialog) {
        const tags = dialog.found.training || [];
        if (!tags.length) return null;
        const chips = tags.map(([tag, count]) => chip(dialog, tag, count.toLocaleString("en")));
        return lycoris.section("Training tags", el("div.lycoris-chips.lycoris-scroll", {}, ...chips));
    };

    /** Return the selected image of the tab's gallery, else the first. */
    function lastImage(page) {
        const gallery = page.gallery && document.querySelector(page.gallery);
        const order = [".preview > img", ".preview button > img", ".selected img", ".preview img", "img"];
        const found = gallery && order.map((selector) => gallery.querySelector(selector)).find(Boolean);
        if (!found) throw new Error("The gallery of this tab has no image. Generate one first.");
        return found.src;
    }

    async function dataUrl(address) {
        const answer = await fetch(address).catch(() => null);
        if (!answer || !answer.ok) throw new Error("Could not fetch the image from the gallery.");
        const blob = await answer.blob();
        return new Promise((done, failed) => {
            const reader = new FileReader();
            reader.onload = () => done(reader.result);
            reader.onerror = () => failed(new Error("Could not read the image."));
            reader.readAsDataURL(blob);
        });
    }

    sections.preview = function (dialog) {
        const { page } = dialog;
        const frame = el("div.lycoris-big");
        const draw = () => {
            frame.replaceChildren(lycoris.media(dialog.card, page.store));
            lycoris.play(frame, true);
        };
        const replace = () =>
            dialog
                .attempt(async () => {
                    const image = await dataUrl(lastImage(page));
                    await page.store.call(`/cards/${dialog.card.id}/preview`, { image });
                }, "The image was saved as the preview.")
                .then(draw);
        draw();
        const button = el(
            "button.lycoris-button",
            { type: "button", onclick: replace },
            lycoris.icon("image"),
            "Use the last image as preview",
        );
        return el("section.lycoris-section", {}, frame, button);
    };
})();
