package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"
)

// event is one line of `go test -json` (cmd/internal/test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output events
	Test       string
	Output     string
}

// summary reduces events to what a person wants to know.
type summary struct {
	out                     io.Writer
	passed, failed, skipped int
	reasons                 map[string]int
	output                  map[string][]string // of tests still running, by package and name
	lost                    map[string]bool     // packages with a failed test
}

func newSummary(out io.Writer) *summary {
	return &summary{out: out, reasons: map[string]int{}, output: map[string][]string{}, lost: map[string]bool{}}
}

// logLine is a line of t.Log or t.Skip: file, line, text.
var logLine = regexp.MustCompile(`^\s*\S+\.go:\d+: (.*)`)

// read consumes events until the end of r. A line that is no event is printed.
func (s *summary) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(s.out, lines.Text())
			continue
		}
		s.add(e)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read go test's events: %w", err)
	}
	return nil
}

func (s *summary) add(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		fmt.Fprint(s.out, e.Output)
	case "output":
		s.output[key] = append(s.output[key], e.Output)
	case "pass":
		if e.Test != "" {
			s.passed++
		} else {
			fmt.Fprintln(s.out, "ok  ", e.Package)
		}
		delete(s.output, key)
	case "skip":
		if e.Test != "" {
			s.skipped++
			s.reasons[skipReason(s.output[key])]++
		}
		delete(s.output, key)
	case "fail":
		s.fail(e, key)
	}
}

// fail prints what a failed test or package said.
func (s *summary) fail(e event, key string) {
	if e.Test == "" {
		// What no test owns, and tests that never ended (panic, time-out).
		for k, lines := range s.output {
			if strings.HasPrefix(k, e.Package+" ") {
				fmt.Fprint(s.out, strings.Join(lines, ""))
				delete(s.output, k)
			}
		}
		if !s.lost[e.Package] {
			s.failed++ // did not build, or died outside a test
		}
		fmt.Fprintln(s.out, "FAIL", e.Package)
		return
	}
	s.failed++
	s.lost[e.Package] = true
	fmt.Fprintf(s.out, "FAIL %s %s\n%s", e.Package, e.Test, strings.Join(s.output[key], ""))
	delete(s.output, key)
}

// skipReason is the last thing a skipped test said.
func skipReason(lines []string) string {
	for i := len(lines) - 1; i >= 0; i-- {
		if m := logLine.FindStringSubmatch(strings.TrimRight(lines[i], "\n")); m != nil {
			return m[1]
		}
	}
	return "no reason given"
}

// close prints the account; left names whole parts that were left out.
func (s *summary) close(left []string) error {
	reasons := make([]string, 0, len(s.reasons))
	for r := range s.reasons {
		reasons = append(reasons, r)
	}
	sort.Strings(reasons)
	for _, r := range reasons {
		fmt.Fprintf(s.out, "skipped %4d: %s\n", s.reasons[r], r)
	}
	for _, l := range left {
		fmt.Fprintln(s.out, "left out:", l)
	}
	fmt.Fprintf(s.out, "%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
	switch {
	case s.failed > 0:
		return fmt.Errorf("%d failed", s.failed)
	case s.passed == 0:
		return errors.New("no test ran")
	}
	return nil
}
