/* A virtual grid: only visible rows and a small overscan exist, and row elements are recycled. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const el = (...args) => lycoris.el(...args);
    const GAP = 10;
    const EDGE = 10;
    const LABEL = 58; // two lines of name and one of folder, see style.css
    const SHAPE = 1.2; // height of an image relative to its width
    const OVERSCAN = 1; // rows above and below
    const CALM_MS = 90;
    const PHONE = 440;
    const LARGE = 200;

    class Grid {
        /** `page` gives store, tagOf(card), act(card, what, node). */
        constructor(page) {
            this.page = page;
            this.list = [];
            this.rows = new Map();
            this.spare = [];
            this.columns = 1;
            this.height = 1;
            this.current = null; // id of the card that has the tab stop
            this.spacer = el("div.lycoris-spacer", { role: "presentation" });
            this.node = el("div.lycoris-grid", { role: "grid", "aria-label": "Adapters", tabindex: "-1" }, this.spacer);
            this.draw = lycoris.perFrame(() => this.render());
            this.node.addEventListener("scroll", () => this.scrolled(), { passive: true });
            new ResizeObserver(() => this.layout()).observe(this.node);
            lycoris.gridEvents(this);
        }

        /** Another list; what has the focus keeps it, and `top` starts from the first row again. */
        show(list, top) {
            this.list = list;
            this.index = null;
            if (this.indexOf(this.current) < 0) this.current = null;
            if (top) this.node.scrollTop = 0;
            this.layout();
        }

        layout() {
            const width = this.node.clientWidth - 2 * EDGE;
            if (width <= 0) return;
            const columns = Math.max(1, Math.floor((width + GAP) / (this.least(width) + GAP)));
            const height = Math.round(((width - (columns - 1) * GAP) / columns) * SHAPE) + LABEL + GAP;
            const first = this.height > 1 ? Math.floor(this.node.scrollTop / this.height) * this.columns : 0;
            const moved = columns !== this.columns || height !== this.height;
            [this.columns, this.height] = [columns, height];
            this.count = Math.ceil(this.list.length / columns);
            this.spacer.style.height = `${this.count * height + EDGE * 2 - GAP}px`;
            this.node.style.setProperty("--lycoris-columns", columns);
            this.node.setAttribute("aria-rowcount", this.count);
            this.node.setAttribute("aria-colcount", columns);
            if (moved) this.node.scrollTop = Math.floor(first / columns) * height;
            this.draw();
        }

        /** A phone has room for two cards in a row unless large ones are asked for. */
        least(width) {
            const { size } = this.page.state;
            return width < PHONE && size <= LARGE ? Math.min(size, (width - GAP) / 2) : size;
        }

        scrolled() {
            const step = Math.abs(this.node.scrollTop - (this.before || 0));
            this.before = this.node.scrollTop;
            this.fast = step > this.node.clientHeight;
            clearTimeout(this.calm);
            this.calm = setTimeout(() => {
                this.fast = false;
                this.draw();
            }, CALM_MS);
            this.draw();
        }

        /** Rows that must exist: those in sight, and the one that holds the focus. */
        wanted() {
            const top = this.node.scrollTop;
            const first = Math.max(0, Math.floor(top / this.height) - OVERSCAN);
            const last = Math.min(
                this.count - 1,
                Math.ceil((top + this.node.clientHeight) / this.height) + OVERSCAN - 1,
            );
            const rows = new Set();
            for (let row = first; row <= last; row += 1) rows.add(row);
            const held = this.node.contains(document.activeElement) ? this.indexOf(this.current) : -1;
            if (held >= 0) rows.add(Math.floor(held / this.columns));
            return rows;
        }

        render() {
            if (!this.node.clientHeight) return;
            const rows = this.wanted();
            const holding = this.holding();
            for (const [row, line] of this.rows) {
                if (!rows.has(row)) this.release(row, line);
            }
            this.stop = this.tabStop(rows);
            for (const row of rows) this.fill(row);
            if (holding) this.refocus();
        }

        holding() {
            const cell = document.activeElement && document.activeElement.closest(".lycoris-cell");
            return cell && this.node.contains(cell) ? cell : null;
        }

        release(row, line) {
            this.rows.delete(row);
            line.node.remove();
            this.spare.push(line);
        }

        fill(row) {
            let line = this.rows.get(row);
            if (!line) {
                line = this.spare.pop() || { node: el("div.lycoris-row", { role: "row" }), cells: [] };
                this.rows.set(row, line);
                line.node.style.transform = "";
                this.spacer.append(line.node);
            }
            line.node.style.top = `${EDGE + row * this.height}px`;
            line.node.style.height = `${this.height - GAP}px`;
            line.node.setAttribute("aria-rowindex", row + 1);
            const cards = this.list.slice(row * this.columns, (row + 1) * this.columns);
            this.size(line, cards.length);
            cards.forEach((card, column) => this.put(line.cells[column], card, column));
        }

        size(line, count) {
            while (line.cells.length < count) {
                line.cells.push(lycoris.card.make());
                line.node.append(line.cells[line.cells.length - 1].node);
            }
            while (line.cells.length > count) line.cells.pop().node.remove();
        }

        put(cell, card, column) {
            if (cell.card !== card) lycoris.card.bind(cell, card);
            if (!this.fast) lycoris.card.show(cell, this.page.store);
            else if (!cell.shown) cell.part.media.replaceChildren();
            lycoris.card.mark(cell, this.page.tagOf(card), this.page.store.model);
            cell.node.setAttribute("aria-colindex", column + 1);
            const tab = card.id === this.stop ? "0" : "-1";
            for (const node of [cell.node, cell.part.star, cell.part.info]) node.setAttribute("tabindex", tab);
        }

        /** One card is reached by Tab (the last used while in sight), and from it its buttons; arrows go on. */
        tabStop(rows) {
            const at = this.indexOf(this.current);
            if (at >= 0 && rows.has(Math.floor(at / this.columns))) return this.current;
            const first = this.list[Math.ceil(this.node.scrollTop / this.height) * this.columns];
            return first ? first.id : null;
        }

        indexOf(id) {
            if (id === null) return -1;
            if (!this.index) this.index = new Map(this.list.map((card, at) => [card.id, at]));
            return this.index.has(id) ? this.index.get(id) : -1;
        }

        cellOf(id) {
            return this.spacer.querySelector(`.lycoris-cell[data-id="${Number(id)}"]`);
        }

        /** Recycling moved another card under the focus: it goes back to the card that had it. */
        refocus() {
            const cell = this.cellOf(this.current);
            if (cell && !cell.contains(document.activeElement)) cell.focus({ preventScroll: true });
        }

        focusAt(index) {
            if (!this.list.length) return;
            const at = Math.max(0, Math.min(this.list.length - 1, index));
            this.current = this.list[at].id;
            this.reveal(Math.floor(at / this.columns));
            this.render();
            this.cellOf(this.current).focus({ preventScroll: true });
        }

        reveal(row) {
            const top = row * this.height;
            const bottom = top + this.height + EDGE;
            if (top < this.node.scrollTop) this.node.scrollTop = top;
            else if (bottom > this.node.scrollTop + this.node.clientHeight) {
                this.node.scrollTop = bottom - this.node.clientHeight;
            }
        }
    }

    lycoris.Grid = Grid;
})();
