//! Order and selection of a table.
//!
//! A selection that somebody has made belongs to a row's id, not to its place: when rows change places it goes with its
//! row. Until then the first row is selected, which is the one that the order says matters most.

/// Columns a table can be sorted by.
pub trait Column: Copy + PartialEq + 'static {
    /// All of them, in the order that `s` goes through.
    const ALL: &'static [Self];
    /// The first click sorts the largest first.
    fn descending(self) -> bool;
}

/// Order and selection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableState<C, I = u8> {
    /// Sorted by this column.
    pub sort: C,
    /// Largest first.
    pub descending: bool,
    /// Id of the selected row.
    pub selected: Option<I>,
    /// First row shown. Set while drawing.
    pub offset: usize,
    index: usize,
    ids: Vec<I>,
    /// Somebody has selected the row, or opened it.
    chosen: bool,
}

impl<C: Column, I: Clone + PartialEq> TableState<C, I> {
    /// Sorted by `sort`, nothing selected.
    #[must_use]
    pub fn new(sort: C) -> Self {
        Self {
            sort,
            descending: sort.descending(),
            selected: None,
            offset: 0,
            index: 0,
            ids: Vec::new(),
            chosen: false,
        }
    }

    /// Sorts by the next column.
    pub fn next_sort(&mut self) {
        let at = C::ALL.iter().position(|c| *c == self.sort).unwrap_or(0);
        self.sort = C::ALL[(at + 1) % C::ALL.len()];
        self.descending = self.sort.descending();
    }

    /// Turns the order round.
    pub fn reverse(&mut self) {
        self.descending = !self.descending;
    }

    /// Takes the rows as they are now: a selection that was made stays with its row, or goes to the row that took its
    /// place.
    pub fn follow(&mut self, ids: impl Iterator<Item = I>) {
        self.ids.clear();
        self.ids.extend(ids);
        if !self.chosen {
            self.put(0);
        } else if let Some(at) = self
            .ids
            .iter()
            .position(|id| Some(id) == self.selected.as_ref())
        {
            self.index = at;
        } else {
            self.put(self.index);
        }
    }

    fn put(&mut self, index: usize) {
        self.index = index.min(self.ids.len().saturating_sub(1));
        self.selected = self.ids.get(self.index).cloned();
    }

    /// Selects the row at a place, or the last one.
    pub fn select(&mut self, index: usize) {
        self.chosen = !self.ids.is_empty();
        self.put(index);
    }

    /// The selected row stays selected.
    pub fn choose(&mut self) {
        self.select(self.index);
    }

    /// Moves the selection by `step` rows, stopping at both ends.
    pub fn step(&mut self, step: isize) {
        self.select(self.index.saturating_add_signed(step));
    }

    /// Place of the selected row.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Moves [`TableState::offset`] so that the selected row is among `height` rows.
    pub fn scroll_to(&mut self, height: usize) {
        let height = height.max(1);
        let last = self.ids.len().saturating_sub(height);
        self.offset = self
            .offset
            .clamp((self.index + 1).saturating_sub(height), self.index)
            .min(last);
    }
}

/// What keys do to a table, whatever its columns and rows are.
pub trait Listing {
    /// Sorts by the next column.
    fn next_sort(&mut self);
    /// Turns the order round.
    fn reverse(&mut self);
    /// Moves the selection by so many rows.
    fn step(&mut self, step: isize);
    /// Selects the row at a place, or the last one.
    fn select(&mut self, index: usize);
    /// The selected row stays selected.
    fn choose(&mut self);
    /// Place of the selected row.
    fn index(&self) -> usize;
    /// Rows there are.
    fn len(&self) -> usize;
    /// There are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<C: Column, I: Clone + PartialEq> Listing for TableState<C, I> {
    fn next_sort(&mut self) {
        Self::next_sort(self);
    }

    fn reverse(&mut self) {
        Self::reverse(self);
    }

    fn step(&mut self, step: isize) {
        Self::step(self, step);
    }

    fn select(&mut self, index: usize) {
        Self::select(self, index);
    }

    fn choose(&mut self) {
        Self::choose(self);
    }

    fn index(&self) -> usize {
        Self::index(self)
    }

    fn len(&self) -> usize {
        self.ids.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum C {
        Name,
        Value,
    }

    impl Column for C {
        const ALL: &'static [Self] = &[Self::Name, Self::Value];
        fn descending(self) -> bool {
            self == Self::Value
        }
    }

    #[test]
    fn the_selection_stays_with_its_row() {
        let mut table = TableState::<C>::new(C::Value);
        table.follow([5, 7, 9].into_iter());
        assert_eq!(table.selected, Some(5));
        table.step(1);
        assert_eq!(table.selected, Some(7));
        table.follow([9, 5, 7].into_iter());
        assert_eq!((table.selected, table.index()), (Some(7), 2));
        // Its row is gone: the one in its place, or the last.
        table.follow([9, 5].into_iter());
        assert_eq!(table.selected, Some(5));
        table.follow([].into_iter());
        assert_eq!(table.selected, None);
        table.step(3);
        table.follow([1, 2].into_iter());
        assert_eq!(table.selected, Some(1));
        table.step(isize::MIN);
        assert_eq!(table.selected, Some(1));
        table.step(isize::MAX);
        assert_eq!(table.selected, Some(2));
    }

    #[test]
    fn until_somebody_selects_the_first_row_is_selected() {
        let mut table = TableState::<C>::new(C::Value);
        table.follow([2].into_iter());
        // What is worse comes first, though it came later.
        table.follow([1, 2].into_iter());
        assert_eq!((table.selected, table.index()), (Some(1), 0));
        // Opened: it stays.
        table.choose();
        table.follow([0, 1, 2].into_iter());
        assert_eq!((table.selected, table.index()), (Some(1), 1));
    }

    #[test]
    fn sorting_goes_round_and_starts_in_the_useful_direction() {
        let mut table = TableState::<C>::new(C::Name);
        assert!(!table.descending);
        table.next_sort();
        assert_eq!((table.sort, table.descending), (C::Value, true));
        table.reverse();
        assert!(!table.descending);
        table.next_sort();
        assert_eq!((table.sort, table.descending), (C::Name, false));
    }

    proptest! {
        #[test]
        fn the_selected_row_is_always_on_screen(
            rows in 0_u8..60, steps in proptest::collection::vec((-70_isize..70, 0_usize..40), 0..20)
        ) {
            let mut table = TableState::<C>::new(C::Name);
            table.follow(0..rows);
            for (step, height) in steps {
                table.step(step);
                table.scroll_to(height);
                prop_assert!(table.offset <= table.index());
                prop_assert!(table.index() < table.offset + height.max(1));
            }
        }
    }
}
