/* The report of the last image: fetched when the gallery changes, with the messages for each tag. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const CALM_MS = 700; // a gallery changes many times while an image is generated

    const plain = (name) => name.normalize("NFC").toLowerCase();
    const last = (name) => name.split(/[\\/]/).pop();

    class Told {
        /** `changed` is called when there is a new report. */
        constructor(page, changed) {
            Object.assign(this, { page, changed, report: null, version: 0, timer: 0, watched: null });
            this.observer = new MutationObserver(() => this.soon());
        }

        close() {
            this.observer.disconnect();
            clearTimeout(this.timer);
        }

        /** The gallery may be drawn anew at any time. */
        watch() {
            const gallery = this.page.gallery && document.querySelector(this.page.gallery);
            if (!this.asked) this.pull();
            if (!gallery || gallery === this.watched) return;
            this.observer.disconnect();
            this.observer.observe(gallery, {
                childList: true,
                subtree: true,
                attributes: true,
                attributeFilter: ["src"],
            });
            this.watched = gallery;
        }

        soon() {
            clearTimeout(this.timer);
            this.timer = setTimeout(() => this.pull(), CALM_MS);
        }

        async pull() {
            this.asked = true;
            const said = await this.page.store.call("/report").catch(() => null); // the cards tell of it
            if (!said || !Array.isArray(said.adapters)) return;
            const text = JSON.stringify(said);
            if (text === this.text) return;
            Object.assign(this, { report: said, text, version: this.version + 1 });
            this.changed();
        }

        names(tag) {
            const names = [tag.name, last(tag.name), last(tag.name).replace(/\.[^.]+$/, "")];
            const found = this.report.adapters.some((one) => names.map(plain).includes(plain(one.name)));
            const card = found ? null : [...this.page.store.cards.values()].find((one) => lycoris.means(tag, one));
            return new Set([...names, ...(card ? [card.name, last(card.name), last(card.stem)] : [])].map(plain));
        }

        /** The report of the `nth` tag of its name; null where there is none. */
        of(tag, nth) {
            if (!this.report) return null;
            const names = this.names(tag);
            const rows = this.report.adapters.filter((one) => names.has(plain(one.name)));
            return rows[Math.min(nth, rows.length - 1)] || null;
        }

        problemsOf(tag) {
            const all = (this.report && this.report.problems) || [];
            return all
                .filter((line) => line.startsWith(`${tag.text}: `))
                .map((line) => line.slice(tag.text.length + 2));
        }

        /** {text, bad} for one tag. */
        about(tag, nth) {
            const problems = this.problemsOf(tag);
            const row = this.of(tag, nth);
            if (!row) return problems.length ? { text: problems.join(" "), bad: true } : { text: "", bad: false };
            const head = `${row.name}: `;
            const line = row.error || row.line || "";
            const notes = [...(row.notes || []), ...problems];
            const mode = row.error || !row.mode ? [] : [row.mode];
            const text = [line.startsWith(head) ? line.slice(head.length) : line, ...mode].join(", ");
            return {
                text: [text, ...notes].join("; "),
                bad: !!row.error || notes.length > 0 || (row.unmatched || []).length > 0,
            };
        }

        /** Problems that belong to none of these tags, nor to an adapter's own line. */
        others(tags) {
            const { problems = [], adapters = [] } = this.report || {};
            const lines = new Set(adapters.flatMap((one) => [one.line, one.error]));
            return problems.filter((line) => !lines.has(line) && !tags.some((tag) => line.startsWith(`${tag.text}: `)));
        }
    }

    lycoris.Told = Told;
})();
