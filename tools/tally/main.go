// Command tally reads what `go test -json` prints, shows it as `go test` would,
// and counts. It is how .ci/run knows how many tests passed and failed over all
// of its steps.
//
//	go test -json ./... | tally -add counts.txt    one step; exits 1 unless all of it passed
//	tally -sum counts.txt                          the closing line of all steps
//
// A skipped test counts as a failed one, and so does a step that ran no test: a
// test nobody runs is not a test that passes.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	add := flag.String("add", "", "append this step's counts to `file`")
	sum := flag.String("sum", "", "print the total of the counts in `file`, reading no tests")
	flag.Parse()
	ok, err := run(os.Stdin, os.Stdout, *add, *sum)
	if err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, add, sum string) (ok bool, err error) {
	if sum != "" {
		total, err := readCounts(sum)
		if err != nil {
			return false, err
		}
		_, err = fmt.Fprintln(out, total)
		return true, err
	}
	step, err := count(in, out)
	if err != nil {
		return false, err
	}
	if _, err := fmt.Fprintln(out, step); err != nil {
		return false, err
	}
	if add != "" {
		if err := appendCounts(add, step); err != nil {
			return false, err
		}
	}
	return step.Failed == 0, nil
}
