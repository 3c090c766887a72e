package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"unicode/utf8"
)

func main() {
	only := flag.String("row", "", "measure only rows whose stage contains this text")
	rounds := flag.Int("rounds", minRounds, "measurements of each side, at least five")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := report(ctx, os.Stdout, rows(), *only, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// report measures and prints the rows. The error counts those below their
// floor and those that could not be measured.
func report(ctx context.Context, out io.Writer, table []row, only string, rounds int) error {
	line := func(stage, reference, target, floor, today string) {
		fmt.Fprintf(out, "%s %s %s %s %s\n", pad(stage, 46), pad(reference, 50), pad(target, 9), pad(floor, 9), today)
	}
	line("stage", "reference in the same run", "target", "floor", "today")
	below, failed := 0, 0
	for _, r := range table {
		if !strings.Contains(r.stage, only) {
			continue
		}
		o, err := r.run(ctx, rounds)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch {
		case err != nil:
			failed++
			o = outcome{today: "failed", note: err.Error()}
		case o.below:
			below++
			o.today += "  BELOW THE FLOOR"
		}
		line(r.stage, r.reference, r.target.String(), r.floor.String(), o.today)
		if o.note != "" {
			fmt.Fprintln(out, "   ", o.note)
		}
	}
	if below+failed > 0 {
		return fmt.Errorf("%d below the floor, %d failed", below, failed)
	}
	return nil
}

// pad fills a column, counting characters rather than bytes.
func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}
