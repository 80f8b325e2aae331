/* Finds tags in a prompt, and escapes names in them. lycoris_tag_parser.js parses a tag's values. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const QUOTED = '"(?:[^"]|"")*"[ \\t]*(?=[:>])';
    const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
    const EDGES = new RegExp(`^[${SPACE}]+|[${SPACE}]+$`, "g");

    const pattern = () => new RegExp(`<(lyco|lora|hypernet|aesthetic):(${QUOTED}[^>]*|[^>]*)>`, "g");

    /** What Python calls white space, which is not quite what `trim` does. */
    lycoris.strip = (text) => text.replace(EDGES, "");

    /** The name of a tag, and how many signs it takes between the kind and the first value. */
    lycoris.nameIn = function (inside) {
        const quotes = new RegExp(`^${QUOTED}`).exec(inside + ">");
        if (quotes) return { name: quotes[0].trimEnd().slice(1, -1).replace(/""/g, '"'), length: quotes[0].length };
        const at = inside.indexOf(":");
        return { name: at < 0 ? inside : inside.slice(0, at), length: at < 0 ? inside.length : at };
    };

    /** An aesthetic embedding: one weight, and `plain` where it says it all. */
    function aesthetic(inside) {
        const { name, length } = lycoris.nameIn(inside);
        const items = inside.slice(length).split(":").slice(1);
        const first = items.find((item) => !item.includes("="));
        const weight = first === undefined ? 0.9 : lycoris.numberIn(first);
        return { name, te: weight, unet: weight, plain: items.length <= 1 && !inside.slice(length).includes("=") };
    }

    /** Every tag in order: {kind, name, te, unet, plain, text, start, end, edits}; te: NaN if it cannot be read. */
    lycoris.tags = function (prompt) {
        const found = Array.from(prompt.matchAll(pattern()), (match) => {
            const [text, kind, inside] = match;
            const start = match.index;
            const full = kind === "lyco" || kind === "lora";
            const read = kind === "aesthetic" ? aesthetic(inside) : lycoris.readTag(kind, inside);
            return { kind, full, ...read, text, start, end: start + text.length };
        });
        const edits = lycoris.editing(prompt, found);
        return found.map((tag, at) => ({ ...tag, edits: edits[at] }));
    };

    /** `name` as a tag must spell it, so that it is read back as the same name. */
    lycoris.quoted = (name) =>
        name && !name.startsWith('"') && !/[:>]/.test(name) ? name : `"${name.replace(/"/g, '""')}"`;

    lycoris.number = (value) => String(Math.round(value * 1000) / 1000);

    lycoris.tag = (name, weight, kind = "lyco") => `<${kind}:${lycoris.quoted(name)}:${lycoris.number(weight)}>`;
})();
