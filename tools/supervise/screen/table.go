package screen

import "strings"

// Table is text in aligned columns, two spaces apart. A head that begins with ">"
// is of a column aligned to the right.
type Table struct {
	Head []string
	Rows [][]string
}

// Add appends a row, which must have as many cells as the head.
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

// Lines lays the table out, with a dim head.
func (t *Table) Lines(s Style) []string {
	head, right := make([]string, len(t.Head)), make([]bool, len(t.Head))
	width := make([]int, len(t.Head))
	for i, h := range t.Head {
		head[i], right[i] = strings.CutPrefix(h, ">")
		width[i] = Width(head[i])
		for _, r := range t.Rows {
			width[i] = max(width[i], Width(r[i]))
		}
	}
	line := func(cells []string) string {
		var b strings.Builder
		for i, c := range cells {
			pad := strings.Repeat(" ", width[i]-Width(c))
			if i > 0 {
				b.WriteString("  ")
			}
			if right[i] {
				b.WriteString(pad + c)
			} else {
				b.WriteString(c + pad)
			}
		}
		return strings.TrimRight(b.String(), " ")
	}
	out := make([]string, 0, len(t.Rows)+1)
	out = append(out, s.Dim(line(head)))
	for _, r := range t.Rows {
		out = append(out, line(r))
	}
	return out
}
