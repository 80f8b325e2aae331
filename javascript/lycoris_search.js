/* Search: words that must all occur, -words that must not, "several words" together, algo:loha family:sdxl tag:hair.
   Quotes are such only where a word begins and ends (or the text does, while it is typed); elsewhere they are letters.
   What looks like field:word finds the cards that have it written, too. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});

    const plain = (text) => text.normalize("NFKC").toLowerCase().replace(/_/g, " ");

    const texts = new WeakMap(); // card -> what is searched; a changed card is a new object

    function everything(card) {
        const found = texts.get(card);
        if (found !== undefined) return found;
        const parts = [card.name, card.title, card.file, card.text, card.base, card.error];
        const text = plain([...parts, ...(card.words || []), ...(card.tags || [])].filter(Boolean).join("\n"));
        texts.set(card, text);
        return text;
    }

    lycoris.searchable = everything;

    const any = (list, word) => (list || []).some((item) => plain(item).includes(word));

    const IS = {
        __proto__: null,
        broken: (card) => !!card.error,
        starred: (card) => !!card.star,
        used: (card) => !!card.used,
    };

    const FIELDS = {
        __proto__: null, // "constructor:" is no field
        algo: (card, word) => any(card.algorithms, word),
        family: (card, word) =>
            plain(card.family || "").startsWith(word) || plain(lycoris.family(card.family)).includes(word),
        tag: (card, word) => any(card.tags, word),
        word: (card, word) => any(card.words, word),
        folder: (card, word) => plain(card.dir).includes(word),
        name: (card, word) => plain(card.name).includes(word),
        base: (card, word) => plain(card.base || "").includes(word),
        is: (card, word) => word in IS && IS[word](card),
    };

    const TERMS = /-?(?:[^\s":]+:)?"[^"]*(?:"(?=\s|$)|$)|\S+/g;

    function term(text) {
        const no = text.length > 1 && text.startsWith("-");
        const bare = no ? text.slice(1) : text;
        const at = bare.indexOf(":");
        const field = at > 0 && FIELDS[bare.slice(0, at).toLowerCase()];
        const value = field ? bare.slice(at + 1) : bare;
        const word = plain(value.replace(/^"([^"]*)"?$/, "$1"));
        if (!word) return null;
        const written = [plain(bare), ...(field ? [] : [word])];
        const test = (card) => written.some((one) => everything(card).includes(one)) || (field && field(card, word));
        return no ? (card) => !test(card) : test;
    }

    /** A function that says whether a card is meant; null where the query asks for nothing. */
    lycoris.matcher = function (query) {
        const tests = (query.match(TERMS) || []).map(term).filter(Boolean);
        return tests.length ? (card) => tests.every((test) => test(card)) : null;
    };
})();
