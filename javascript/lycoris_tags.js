/* `<lyco:NAME:te:unet:dyn>` in a prompt: the grammar of lib_adapters/prompt/tags.py, as far as a page needs it. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const QUOTED = '"(?:[^"]|"")*"[ \\t]*(?=[:>])';
    const NUMBER = /^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$/;

    const pattern = () => new RegExp(`<(lyco|lora|hypernet|aesthetic):(${QUOTED}[^>]*|[^>]*)>`, "g");

    function split(inside) {
        const quotes = new RegExp(`^${QUOTED}`).exec(inside + ">");
        if (!quotes) {
            const [name, ...items] = inside.split(":");
            return [name, items];
        }
        const name = quotes[0].trimEnd().slice(1, -1).replace(/""/g, '"');
        return [name, inside.slice(quotes[0].length).split(":").slice(1)];
    }

    function strengths(items, usual) {
        const named = {};
        const positional = [];
        for (const item of items) {
            const at = item.indexOf("=");
            if (at < 0) positional.push(item.trim());
            else named[item.slice(0, at).trim()] = item.slice(at + 1).trim();
        }
        const te = named.te !== undefined ? named.te : positional.length ? positional[0] : usual;
        const unet = named.unet !== undefined ? named.unet : positional.length > 1 ? positional[1] : te;
        const plain = positional.length <= 1 && Object.keys(named).length === 0;
        return { te: NUMBER.test(te) ? Number(te) : NaN, unet: NUMBER.test(unet) ? Number(unet) : NaN, plain };
    }

    /** Every tag in order: {kind, name, te, unet, plain, text, start, end}; `plain` where one number says it all. */
    lycoris.tags = function (prompt) {
        return Array.from(prompt.matchAll(pattern()), (match) => {
            const [name, items] = split(match[2]);
            const start = match.index;
            const usual = match[1] === "aesthetic" ? "0.9" : "1";
            return { kind: match[1], name, ...strengths(items, usual), text: match[0], start, end: start + match[0].length };
        });
    };

    /** `name` as a tag must spell it, so that it is read back as the same name. */
    lycoris.quoted = (name) =>
        name && !name.startsWith('"') && !/[:>]/.test(name) ? name : `"${name.replace(/"/g, '""')}"`;

    lycoris.number = (value) => String(Math.round(value * 1000) / 1000);

    lycoris.tag = (name, weight, kind = "lyco") => `<${kind}:${lycoris.quoted(name)}:${lycoris.number(weight)}>`;
})();
