/* Insertion and removal of prompt text, as pure functions. An edit is {start, end, insert}. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const OPENS = "([{|";
    const CLOSES = ")]}|:";

    const isWord = (text, at) => !/[\s,()[\]{}|<>]/.test(text[at]);

    /** Nothing is ever put into a tag, a word or the number of `(word:1.2)`: the place after it is taken. */
    function place(text, caret) {
        const inside = lycoris.tags(text).find((tag) => tag.start < caret && caret < tag.end);
        let at = inside ? inside.end : Math.min(caret, text.length);
        while (at > 0 && at < text.length && isWord(text, at - 1) && isWord(text, at)) at += 1;
        if (/:\s*[+-]?[\d.]*$/.test(text.slice(0, at)) && /^\s*[)\]]/.test(text.slice(at))) {
            at = text.slice(at).search(/[)\]]/) + at + 1;
        }
        return at;
    }

    lycoris.stripTags = function (text) {
        const tags = lycoris.tags(text);
        return tags.reduceRight((rest, tag) => rest.slice(0, tag.start) + rest.slice(tag.end), text);
    };

    /** Does what stands left of a place (tags aside) still need a comma before words follow? */
    function wantsComma(left) {
        const real = lycoris.stripTags(left).replace(/[ \t]+$/, "");
        return real !== "" && !/[,\n([{|]$/.test(real) && !/\b(AND|BREAK)$/.test(real);
    }

    function before(left, words) {
        if (words && wantsComma(left)) return ", ";
        return !left || /[\s([{|]$/.test(left) ? "" : " ";
    }

    function after(right, words) {
        if (!right || right.startsWith("\n")) return "";
        const first = lycoris
            .stripTags(right)
            .replace(/^[ \t]+/, "")
            .charAt(0);
        const comma = words && first && first !== "," && first !== "\n" && !CLOSES.includes(first) ? "," : "";
        return comma + (/^[\s,]/.test(right) || CLOSES.includes(right[0]) ? "" : " ");
    }

    /** The edit that puts `tag` and `words` at the caret, parted from what stands around them by `, ` or a space. */
    lycoris.insertion = function (text, caret, tag, words) {
        const at = place(text, caret);
        const left = text.slice(0, at);
        const spaces = words && wantsComma(left) ? /[ \t]*$/.exec(left)[0].length : 0;
        const core = [tag, words].filter(Boolean).join(" ");
        return { start: at - spaces, end: at, insert: before(left, words) + core + after(text.slice(at), words) };
    };

    /** The edit that takes text[from:to] out, with brackets that hold nothing else, and leaves one separator where
     *  it stood between two others. */
    lycoris.removal = function (text, from, to) {
        const [start, end] = lycoris.withBrackets(text, from, to);
        const left = text.slice(0, start);
        const right = text.slice(end);
        const l = /[ \t]*,?[ \t]*$/.exec(left)[0];
        const r = /^[ \t]*,?[ \t]*/.exec(right)[0];
        const insert = joint(left.slice(0, left.length - l.length), right.slice(r.length), l, r);
        return { start: start - l.length, end: end + r.length, insert };
    };

    function joint(left, right, l, r) {
        const comma = l.includes(",") || r.includes(",");
        if (!left || !right) return "";
        if (left.endsWith("\n")) return !left.trim() || left.trimEnd().endsWith(",") ? "" : r.trimStart();
        if (right.startsWith("\n")) return comma ? "," : "";
        if (OPENS.includes(left.slice(-1)) || CLOSES.includes(right[0])) return "";
        if (!comma) return l || r ? " " : "";
        if (l.includes(",") && /[ \t]$/.test(l)) return l;
        return r.includes(",") ? r : l + r;
    }

    /** Where `words` still stand right after `at` as they were put there: the end of them, or -1. */
    lycoris.wordsAfter = function (text, at, words) {
        if (!words) return -1;
        const from = at + /^[ \t]*,?[ \t]*/.exec(text.slice(at))[0].length;
        const end = from + words.length;
        const whole = text.startsWith(words, from) && (end === text.length || /[\s,()[\]{}|<>:]/.test(text[end]));
        return whole ? end : -1;
    };

    /** Where `words` stand as a whole piece between commas or line ends; null if they do not. */
    lycoris.piece = function (text, words) {
        let at = words ? text.lastIndexOf(words) : -1;
        while (at >= 0) {
            const end = at + words.length;
            if (/(^|[,\n])[ \t]*$/.test(text.slice(0, at)) && /^[ \t]*($|[,\n])/.test(text.slice(end)))
                return [at, end];
            at = at > 0 ? text.lastIndexOf(words, at - 1) : -1;
        }
        return null;
    };

    lycoris.applied = (text, edit) => text.slice(0, edit.start) + edit.insert + text.slice(edit.end);
})();
