// Command bench measures every stage against a reference in the same run and
// prints the table of ratios: seconds differ between machines, ratios do not.
//
// Reference and product alternate (R P R P …) for at least five rounds. A row
// whose reference varies by more than 1.5x says nothing and is measured again,
// then given up as noisy. Only a ratio beyond its floor fails the run; a row
// whose stage does not exist yet prints "not built".
//
//	go run ./internal/bench [-row TEXT] [-rounds N]
package main
