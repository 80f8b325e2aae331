/* Changes one value in a tag's text and keeps the rest; each candidate is parsed again before it is used. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});

    const splice = (text, start, end, insert) => text.slice(0, start) + insert + text.slice(end);

    const written = (key, value) => (key === "off" ? ":off" : `:${key}=${value}`);

    /** The item whose value counts: the last one with the key, else the one without. */
    const itemOf = (tag, key) => {
        const own = tag.items.filter((one) => one.key === key);
        return own.filter((one) => one.named).pop() || own.pop();
    };

    /** Out with every item of this key, each with the colon before it. */
    const without = (tag, key) =>
        tag.items
            .filter((one) => one.key === key)
            .reduceRight((text, one) => splice(text, one.start - 1, one.end, ""), tag.text);

    /** A new strength goes where the others are, written as they are. */
    function newStrength(tag, key, value) {
        const te = itemOf(tag, "te");
        const named = tag.items.some((one) => one.named && ["te", "unet"].includes(one.key));
        const bare = key === "te" ? !named : te && !te.named;
        const at = key === "unet" && te ? te.end : tag.nameEnd;
        return splice(tag.text, at, at, bare ? `:${value}` : written(key, value));
    }

    function inPlace(tag, key, value) {
        if (value === null) return without(tag, key);
        const item = itemOf(tag, key);
        if (item) return splice(tag.text, item.at, item.to, value);
        if (key === "te" || key === "unet") return newStrength(tag, key, value);
        return splice(tag.text, tag.text.length - 1, tag.text.length - 1, written(key, value));
    }

    /** Right behind the name: a word at the end may be taken for the rest of a rule before it. */
    const behindName = (tag, key, value) =>
        value === null ? null : splice(without(tag, key), tag.nameEnd, tag.nameEnd, written(key, value));

    /** Values without a key move up when one of them leaves: those behind it get their keys first. */
    function withKeys(tag, key, value) {
        const from = tag.items.findIndex((one) => one.key === key && !one.named);
        if (from < 0) return null;
        return tag.items.reduceRight((text, one, at) => {
            if (at < from || one.named || !one.key || one.key === "off") return text;
            const now = one.key === key ? value : one.value;
            return splice(text, one.start - 1, one.end, now === null ? "" : written(one.key, now));
        }, tag.text);
    }

    /** All of it anew, each value with its key: the last resort for tags with values that nobody reads. */
    function afresh(tag, key, value) {
        const { off, ...values } = { ...tag.values, [key]: value };
        const pairs = Object.entries(values).filter((pair) => pair[1] !== null && pair[1] !== undefined);
        const strange = tag.items
            .filter((one) => one.named && !one.key)
            .map((one) => tag.text.slice(one.start - 1, one.end));
        const head = tag.text.slice(0, tag.nameEnd) + (off ? ":off" : "");
        return `${head}${pairs.map((pair) => written(...pair)).join("")}${strange.join("")}>`;
    }

    const same = (one, other) => {
        const keys = Object.keys(one);
        return keys.length === Object.keys(other).length && keys.every((key) => one[key] === other[key]);
    };

    function reads(text, tag, wanted) {
        const found = text === null ? [] : lycoris.tags(text);
        if (found.length !== 1 || found[0].text !== text || (found[0].problem && !tag.problem)) return false;
        return found[0].kind === tag.kind && found[0].name === tag.name && same(found[0].values, wanted);
    }

    function change(text, key, value) {
        const [tag] = lycoris.tags(text);
        const wanted = { ...tag.values, [key]: value };
        if (value === null) delete wanted[key];
        if (same(wanted, tag.values)) return text;
        const ways = [inPlace, behindName, withKeys, afresh];
        for (const way of ways) {
            const made = way(tag, key, value);
            if (reads(made, tag, wanted)) return made;
        }
        return null;
    }

    /** The tag's text with these values ({key: text, or null for none}); null where that cannot be written. */
    lycoris.rewritten = (text, changes) =>
        Object.entries(changes).reduce((now, [key, value]) => (now === null ? null : change(now, key, value)), text);

    /** Does one value set both parts? */
    lycoris.isLinked = (tag) => tag.values.unet === undefined;

    /** The changes that give one part, or both where one value sets both, another strength. */
    lycoris.strengthChange = (tag, part, value) => ({ [lycoris.isLinked(tag) ? "te" : part]: lycoris.number(value) });

    /** Two values for one, or one for two; the numbers stay as far as they can. */
    lycoris.linkChange = function (tag) {
        if (!lycoris.isLinked(tag)) return { te: tag.values.unet, unet: null };
        const now = tag.values.te === undefined ? "1" : tag.values.te;
        return { unet: now, ...(lycoris.isCurve(now) ? { te: lycoris.number(tag.te) } : {}) };
    };

    /** A new start or stop (null: none), in `step=` where the tag has one, because that wins. */
    lycoris.windowChange = function (tag, which, value) {
        if (tag.values.step === undefined) return { [which]: value };
        const ends = lycoris.ends(tag.values);
        ends[which === "start" ? 0 : 1] = value || "";
        if (!ends.some(Boolean)) return { step: null, start: null, stop: null };
        return { step: ends.map((end) => end || "").join("-") };
    };

    /** The smallest edit that makes `after` of `before`, which stands at `from`. */
    lycoris.difference = function (before, after, from) {
        const most = Math.min(before.length, after.length);
        let start = 0;
        while (start < most && before[start] === after[start]) start += 1;
        let tail = 0;
        while (tail < most - start && before[before.length - 1 - tail] === after[after.length - 1 - tail]) tail += 1;
        return {
            start: from + start,
            end: from + before.length - tail,
            insert: after.slice(start, after.length - tail),
        };
    };
})();
