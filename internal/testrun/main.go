// Command testrun runs the module's tests and tells the whole truth at the end:
// failures as they come, skips counted by reason, one closing line. It fails if
// anything failed or if nothing ran.
//
//	go run ./internal/testrun [-race PKG,PKG] [-run REGEXP] PATTERN...
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// testTimeout bounds one package: longer than the slowest, short enough that a
// hang is seen the same hour.
const testTimeout = "20m"

func main() {
	race := flag.String("race", "", "comma-separated packages to run once more with the race detector")
	run := flag.String("run", "", "only tests whose name matches")
	flag.Parse()
	patterns := flag.Args()
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	var racy []string
	if *race != "" {
		racy = strings.Split(*race, ",")
	}
	if err := runAll(os.Stdout, patterns, racy, *run); err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		os.Exit(1)
	}
}

// runAll vets and tests patterns, then tests racy with the race detector where
// a C compiler is present.
func runAll(out io.Writer, patterns, racy []string, run string) error {
	vet := exec.Command("go", append([]string{"vet"}, patterns...)...)
	vet.Stdout, vet.Stderr = out, os.Stderr
	if err := vet.Run(); err != nil {
		return fmt.Errorf("go vet: %w", err)
	}
	sum := newSummary(out)
	var left []string
	if err := runTests(sum, patterns, nil, run); err != nil {
		return err
	}
	if len(racy) > 0 {
		if _, err := exec.LookPath("gcc"); err != nil {
			left = append(left, "race detector: no C compiler")
		} else if err := runTests(sum, racy, []string{"-race", "-short"}, run); err != nil {
			return err
		}
	}
	return sum.close(left)
}

// runTests runs one go test and feeds its events to sum. A failing test is in
// sum, not an error.
func runTests(sum *summary, patterns, flags []string, run string) error {
	args := append([]string{"test", "-json", "-count=1", "-vet=off", "-timeout", testTimeout}, flags...)
	if run != "" {
		args = append(args, "-run", run)
	}
	cmd := exec.Command("go", append(args, patterns...)...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start go test: %w", err)
	}
	readErr := sum.read(pipe)
	waitErr := cmd.Wait()
	if readErr != nil {
		return readErr
	}
	if waitErr != nil && sum.failed == 0 {
		return fmt.Errorf("go test: %w, but no test reported a failure", waitErr)
	}
	return nil
}
