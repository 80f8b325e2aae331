/* Pointer and keyboard events of the grid, delegated to one listener per event type. */
(() => {
    "use strict";
    const lycoris = (window.lycoris = window.lycoris || {});

    function target(grid, key) {
        const page = Math.max(1, Math.floor(grid.node.clientHeight / grid.height)) * grid.columns;
        const now = Math.max(0, grid.indexOf(grid.current));
        const steps = {
            ArrowRight: now + 1,
            ArrowLeft: now - 1,
            ArrowDown: now + grid.columns,
            ArrowUp: now - grid.columns,
            PageDown: now + page,
            PageUp: now - page,
            Home: 0,
            End: grid.list.length - 1,
        };
        return steps[key];
    }

    function pressed(grid, event) {
        if (event.ctrlKey || event.altKey || event.metaKey) return;
        const cell = event.target.closest(".lycoris-cell");
        const to = cell ? target(grid, event.key) : undefined;
        if (to !== undefined) {
            event.preventDefault();
            grid.focusAt(to);
        } else if (event.target === cell && (event.key === "Enter" || event.key === " ")) {
            event.preventDefault();
            act(grid, cell, "toggle", cell);
        }
    }

    function act(grid, cell, what, node) {
        const card = grid.page.store.cards.get(Number(cell.dataset.id));
        if (card) grid.page.act(card, what, node);
    }

    function clicked(grid, event) {
        const cell = event.target.closest(".lycoris-cell");
        if (!cell) return;
        act(grid, cell, event.target.closest("[data-act]").dataset.act, event.target.closest("[data-act]"));
    }

    function focused(grid, event) {
        const cell = event.target.closest(".lycoris-cell");
        if (!cell) return;
        lycoris.play(cell, true);
        if (Number(cell.dataset.id) === grid.current) return;
        grid.current = Number(cell.dataset.id);
        grid.draw();
    }

    lycoris.gridEvents = function (grid) {
        const on = (name, work) => grid.node.addEventListener(name, (event) => work(grid, event));
        on("keydown", pressed);
        on("click", clicked);
        on("focusin", focused);
        on("focusout", (_, event) => lycoris.play(event.target.closest(".lycoris-cell"), false));
        on("pointerover", (_, event) => lycoris.play(event.target.closest(".lycoris-cell"), true));
        on("pointerout", (_, event) => {
            const cell = event.target.closest(".lycoris-cell");
            if (cell && !cell.contains(event.relatedTarget)) lycoris.play(cell, false);
        });
    };
})();
