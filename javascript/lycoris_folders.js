/* The folder tree, and the breadcrumbs above the cards. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});
    const el = (...args) => lycoris.el(...args);
    const key = (root, dir) => `${root}/${dir}`;

    /** {root, dir, name, children: Map}: made from the cards' own folders. */
    function grow(cards, labels) {
        const roots = labels.map((name, root) => ({ root, dir: "", name, children: new Map() }));
        const seen = new Set();
        for (const card of cards.values()) {
            const root = roots[card.root || 0];
            if (!root || seen.has(card.place)) continue;
            seen.add(card.place);
            plant(root, card.dir);
        }
        return roots;
    }

    function plant(root, dir) {
        let at = root;
        for (const name of dir ? dir.split("/") : []) {
            const below = at.dir ? `${at.dir}/${name}` : name;
            if (!at.children.has(name))
                at.children.set(name, { root: root.root, dir: below, name, children: new Map() });
            at = at.children.get(name);
        }
    }

    /** Cards in a folder and everything below it. */
    function total(item, counts) {
        let sum = counts.get(key(item.root, item.dir)) || 0;
        for (const child of item.children.values()) sum += total(child, counts);
        return sum;
    }

    class Folders {
        constructor(page) {
            this.page = page;
            this.list = el("div.lycoris-tree", { role: "tree", "aria-label": "Folders" });
            this.node = el("nav.lycoris-folders", { "aria-label": "Folders" }, this.list);
            this.crumbs = el("div.lycoris-crumbs");
            this.list.addEventListener("keydown", (event) => this.pressed(event));
            this.list.addEventListener("click", (event) => this.clicked(event));
        }

        update(counts) {
            this.node.hidden = !this.page.treeOpen();
            if (!this.node.hidden) this.drawTree(counts);
            this.drawCrumbs();
        }

        drawTree(counts) {
            const held = this.list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
            const roots = grow(this.page.store.cards, this.page.store.folders);
            const all = { root: null, dir: "", name: "All folders", children: new Map() };
            const sum = roots.reduce((count, root) => count + total(root, counts), 0);
            this.list.replaceChildren(this.line(all, 0, sum), ...roots.flatMap((root) => this.branch(root, 0, counts)));
            const again = [...this.list.children].find((item) => item.dataset.key === held);
            if (again) again.focus();
        }

        branch(item, level, counts) {
            const lines = [this.line(item, level, total(item, counts))];
            if (!this.isOpen(item)) return lines;
            const children = [...item.children.values()].sort((a, b) =>
                a.name.localeCompare(b.name, undefined, { numeric: true }),
            );
            return lines.concat(...children.map((child) => this.branch(child, level + 1, counts)));
        }

        /** Roots are open and the rest closed until turned; `state.open` holds what was turned. */
        isOpen(item) {
            return (
                item.children.size > 0 && (item.dir === "") !== this.page.state.open.includes(key(item.root, item.dir))
            );
        }

        line(item, level, count) {
            const { state } = this.page;
            const here = item.root === state.root && item.dir === state.dir;
            const open = this.isOpen(item);
            const node = el(
                "div.lycoris-tree-item",
                {
                    role: "treeitem",
                    tabindex: here ? "0" : "-1",
                    "aria-level": level + 1,
                    "aria-selected": String(here),
                    "data-key": key(item.root, item.dir),
                    "data-dir": item.dir,
                    "data-root": item.root,
                    title: item.dir || item.name,
                },
                el("span.lycoris-turn", {}, item.children.size ? lycoris.icon("chevron") : ""),
                el("span.lycoris-tree-name", {}, item.name),
                el("span.lycoris-count", {}, count.toLocaleString("en")),
            );
            if (item.children.size) node.setAttribute("aria-expanded", String(open));
            node.style.setProperty("--lycoris-level", level);
            return node;
        }

        clicked(event) {
            const item = event.target.closest(".lycoris-tree-item");
            if (!item) return;
            const turn = event.target.closest(".lycoris-turn");
            if (turn && item.hasAttribute("aria-expanded")) this.turn(item);
            else this.choose(item);
        }

        choose(item) {
            const root = item.dataset.root === undefined ? null : Number(item.dataset.root);
            this.page.change({ root, dir: item.dataset.dir });
        }

        turn(item) {
            const { open } = this.page.state;
            const rest = open.filter((name) => name !== item.dataset.key);
            this.page.change({ open: rest.length < open.length ? rest : [...rest, item.dataset.key] });
        }

        pressed(event) {
            const items = [...this.list.children];
            const at = items.indexOf(event.target);
            const open = event.target.getAttribute("aria-expanded");
            const steps = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 };
            if (event.key in steps) (items[steps[event.key]] || event.target).focus();
            else if (event.key === "Enter" || event.key === " ") this.choose(event.target);
            else if (event.key === "ArrowRight" && open === "false") this.turn(event.target);
            else if (event.key === "ArrowLeft" && open === "true") this.turn(event.target);
            else return;
            event.preventDefault();
        }

        drawCrumbs() {
            const { state, store } = this.page;
            const steps = [["All folders", null, ""]];
            if (state.root !== null) steps.push([store.folders[state.root] || "…", state.root, ""]);
            const names = state.dir ? state.dir.split("/") : [];
            names.forEach((name, at) => steps.push([name, state.root, names.slice(0, at + 1).join("/")]));
            this.crumbs.replaceChildren(...steps.flatMap((step, at) => this.crumb(step, at, steps.length - 1)));
        }

        crumb([name, root, dir], at, last) {
            const props = { type: "button", onclick: () => this.page.change({ root, dir }) };
            if (at === last) props["aria-current"] = "location";
            return [at ? lycoris.icon("chevron") : "", el("button.lycoris-crumb", props, name)];
        }
    }

    lycoris.severalFolders = function (store) {
        if (store.folders.length > 1) return true;
        for (const card of store.cards.values()) if (card.dir) return true;
        return false;
    };

    lycoris.Folders = Folders;
})();
