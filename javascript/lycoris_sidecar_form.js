/* The edit form of the details dialog: the web UI's sidecar fields; only changed fields are sent. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const sections = (lycoris.sections = lycoris.sections || {});
    const el = (...args) => lycoris.el(...args);

    /** The sidecar's key, the label, what is shown while it has none, and the kind of field. */
    const FIELDS = [
        ["activation text", "Trigger words", "written by a click on the card", "input"],
        ["negative text", "Negative words", "added to the negative prompt", "input"],
        ["preferred weight", "Preferred weight", "1", "number"],
        ["sd version", "Base model", "as you call it, for example SD1", "input"],
        ["description", "Description", "", "textarea"],
        ["notes", "Notes", "", "textarea"],
    ];

    function field([key, label, placeholder, kind], value) {
        const props = { name: key, placeholder, value };
        const input =
            kind === "textarea"
                ? el("textarea.lycoris-input", { ...props, rows: "3" })
                : el("input.lycoris-input", { ...props, type: kind === "number" ? "number" : "text", step: "any" });
        return { key, kind, first: value, input, node: el("label.lycoris-field", {}, el("span", {}, label), input) };
    }

    const stored = (found, key) => {
        const value = (found.sidecar || {})[key];
        if (value !== undefined && value !== null) return String(value);
        return key === "description" ? found.description || "" : key === "notes" ? found.notes || "" : "";
    };

    /** What differs from what was loaded; a weight left empty is the web UI's 0, "no preference". */
    function changes(fields) {
        const changed = fields.filter((one) => one.input.value !== one.first);
        const value = (one) => (one.kind === "number" ? one.input.valueAsNumber || 0 : one.input.value);
        return Object.fromEntries(changed.map((one) => [one.key, value(one)]));
    }

    /** Words chosen among old chips mean nothing for new words, nor a weight for a new preferred one. */
    function forget(dialog, sent) {
        const reset = {};
        if ("activation text" in sent) reset.words = undefined;
        if ("preferred weight" in sent) reset.weight = undefined;
        dialog.page.choices.set(dialog.card, reset);
    }

    async function save(dialog, fields) {
        const sent = changes(fields);
        if (!Object.keys(sent).length) return dialog.say("Nothing was changed.");
        const done = await dialog.attempt(
            () => dialog.page.store.call(`/cards/${dialog.card.id}`, sent),
            "Saved beside the file.",
        );
        if (!done) return undefined;
        forget(dialog, sent);
        return dialog.load();
    }

    sections.edit = function (dialog) {
        const fields = FIELDS.map((one) => field(one, stored(dialog.found, one[0])));
        const button = el("button.lycoris-button.lycoris-primary", { type: "submit" }, "Save");
        const form = el(
            "form.lycoris-form",
            {
                onsubmit: (event) => {
                    event.preventDefault();
                    lycoris.inertUntil(form, save(dialog, fields));
                },
            },
            ...fields.map((one) => one.node),
            el("div.lycoris-line", {}, button),
        );
        return lycoris.section("Edit", form);
    };
})();
