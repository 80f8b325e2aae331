/* Brackets around tags: prompt editing and alternation, as lib_adapters/prompt/editing.py reads them. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const WORD = "[\\p{L}\\p{N}_]";
    const AND = new RegExp(`(^|[^\\p{L}\\p{N}_])AND(?!${WORD})`, "gu");
    const ANY = new RegExp(`<${WORD}+:[^>]+>`, "gu");
    const FOREIGN = "\0"; // replaces each character of a tag that is not ours; ignored in a number
    const TOKEN = /\\[^\n]?|[[\]():|]/g;
    const NUMBER = /^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$/;
    const OPENERS = { "]": "[", ")": "(" };

    const group = (opener) => ({ opener, cuts: [], inside: [], kind: "stray", when: "", groups: 0 });

    /** Return the group's kind if it is a valid bracket that ends here, else "". */
    function closes(one, text, end) {
        const signs = new Set(one.cuts.map((cut) => cut.sign));
        if (one.opener === "(") return signs.has("|") || one.cuts.length > 1 ? "" : "emphasis";
        if (!signs.size) return "emphasis";
        if (signs.size > 1) return "";
        if (signs.has("|")) return "turn";
        if (one.cuts.length > 2 || one.groups) return "";
        const last = text.slice(one.cuts[one.cuts.length - 1].at + 1, end).replaceAll(FOREIGN, " ");
        one.when = lycoris.strip(last);
        return NUMBER.test(one.when) ? "switch" : "";
    }

    /** Return the edit of one segment of a group; null for the segment with the step, and for emphasis. */
    function editOf(one, segment) {
        if (one.kind === "turn") return { place: segment, count: one.cuts.length + 1 };
        if (one.kind !== "switch" || segment >= one.cuts.length) return null;
        const after = segment === one.cuts.length - 1;
        return { after, when: Number(one.when), share: one.when.includes(".") };
    }

    class Scan {
        constructor() {
            this.root = group("");
            this.open = [this.root];
            this.broken = false; // the web UI reads all of it as plain text
        }

        put(one) {
            const top = this.open[this.open.length - 1];
            top.inside.push([top.cuts.length, one]);
            if (typeof one !== "number") top.groups += 1;
        }

        token(text, sign, at) {
            const top = this.open[this.open.length - 1];
            if (sign[0] === "\\") this.broken = this.broken || sign.length === 1;
            else if (sign === "[" || sign === "(") this.open.push(group(sign));
            else if (sign === ":" || sign === "|") {
                if (top === this.root) this.broken = this.broken || sign === "|";
                else top.cuts.push({ sign, at });
                top.groups = 0;
            } else if (top.opener === OPENERS[sign] && (top.kind = closes(top, text, at))) {
                this.open.pop();
                this.put(top);
            } else this.clear();
        }

        /** Turn all open brackets into plain text, because an invalid bracket was found inside them. */
        clear() {
            while (this.open.length > 1) {
                const one = this.open.pop();
                one.kind = "stray";
                this.broken = this.broken || one.cuts.some((cut) => cut.sign === "|");
                this.put(one);
            }
        }
    }

    /** Collect the edits of each place from the groups around it, iteratively because nesting may be deep. */
    function walk(root, found) {
        const todo = [[root, []]];
        while (todo.length) {
            const [one, edits] = todo.pop();
            for (const [segment, inner] of one.inside) {
                const edit = editOf(one, segment);
                const known = !edit || edits.some((other) => JSON.stringify(other) === JSON.stringify(edit));
                const below = known ? edits : [...edits, edit];
                if (typeof inner === "number") found[inner] = below;
                else todo.push([inner, below]);
            }
        }
    }

    function part(text, places, [start, end], found) {
        const scan = new Scan();
        let next = places.findIndex((place) => place >= start);
        if (next < 0) return;
        const before = (at) => {
            while (next < places.length && places[next] <= Math.min(at, end)) scan.put(next++);
        };
        TOKEN.lastIndex = 0;
        for (const match of text.slice(start, end).matchAll(TOKEN)) {
            before(start + match.index);
            scan.token(text, match[0], start + match.index);
        }
        before(end);
        scan.clear();
        if (!scan.broken) walk(scan.root, found);
    }

    /** Return the edits around each span of a prompt: [{after, when, share}] or [{place, count}], [] for none. */
    lycoris.editing = function (prompt, spans) {
        const found = spans.map(() => []);
        if (!prompt.includes("[")) return found;
        const starts = [0, ...spans.map((one) => one.end)];
        const ends = [...spans.map((one) => one.start), prompt.length];
        const words = starts.map((start, at) =>
            prompt.slice(start, ends[at]).replace(ANY, (tag) => FOREIGN.repeat(tag.length)),
        );
        let length = 0;
        const places = words.slice(0, -1).map((one) => (length += one.length));
        const text = words.join("");
        let start = 0;
        for (const end of [...Array.from(text.matchAll(AND), (match) => match.index + match[1].length), text.length]) {
            part(text, places, [start, end], found);
            start = end + 3;
        }
        return found;
    };

    function allows(edit, step, steps) {
        if (edit.count !== undefined) return step % edit.count === edit.place;
        const when = Math.min(steps, Math.trunc(edit.share ? edit.when * steps : edit.when));
        return edit.after ? step >= when : step < when;
    }

    /** True if a tag acts in this step of the first pass, by its own window and the prompt editing around it. */
    lycoris.acts = (tag, step, steps) =>
        lycoris.holds(tag.window, step, steps) && tag.edits.every((edit) => allows(edit, step, steps));

    /** True if the tag may be inactive in some steps. */
    lycoris.isTimed = (tag) => Boolean(tag.window) || tag.edits.length > 0;

    /** Describe one edit in words. */
    lycoris.editText = function (edit) {
        if (edit.count !== undefined) return `alternating, ${edit.place + 1} of ${edit.count}`;
        const when = edit.share ? `${lycoris.number(edit.when * 100)}%` : `${edit.when} steps`;
        return `${edit.after ? "from" : "until"} ${when}${edit.after ? " on" : ""}`;
    };

    /** Extend text[start:end] to the brackets that contain nothing else. */
    lycoris.withBrackets = function (text, start, end) {
        const number = "\\s*[+-]?(?:[0-9]+\\.?[0-9]*|\\.[0-9]+)\\s*\\]";
        const sides = [
            [/(?:^|[^\\])\[\s*$/, new RegExp(`^\\s*(?::\\s*)?:${number}`)],
            [/(?:^|[^\\])\[\s*:\s*$/, new RegExp(`^\\s*:${number}`)],
            [/(?:^|[^\\])\[[\s|]*$/, /^\s*\|[\s|]*\]/],
            [/(?:^|[^\\])\[\s*\|[\s|]*$/, /^[\s|]*\]/],
        ];
        const left = text.slice(0, start);
        const right = text.slice(end);
        for (const [before, after] of sides) {
            const [one, other] = [before.exec(left), after.exec(right)];
            if (one && other) return lycoris.withBrackets(text, left.lastIndexOf("["), end + other[0].length);
        }
        return [start, end];
    };
})();
