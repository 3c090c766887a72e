package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Record is sim.json: what was asked for and what was made for it. It is
// written before each step that leaves something behind, so that Down can undo
// a simulation that died anywhere.
type Record struct {
	Config
	// PID and StartTime identify the process that holds the simulation
	// (StartTime: field 22 of /proc/PID/stat, so that a reused PID is noticed).
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"`
	// MadeState is set if the state directory did not exist before.
	MadeState bool `json:"made_state"`
	// Namespaces are those that were made.
	Namespaces []string `json:"namespaces,omitempty"`
	// BPFFS is where a BPF file system was mounted, empty if nowhere.
	BPFFS string `json:"bpffs,omitempty"`
	// Attached are the netdevs that were silenced, as they were before.
	Attached []attached `json:"attached,omitempty"`
	// Listen is where the agent listens for the shim.
	Listen string `json:"listen,omitempty"`
	// Ready is set when the first snapshot was programmed.
	Ready bool `json:"ready"`
}

// Load reads the record of a state directory. The error wraps os.ErrNotExist if
// there is none.
func Load(state string) (*Record, error) {
	data, err := os.ReadFile(filepath.Join(state, "sim.json"))
	if err != nil {
		return nil, err
	}
	r := new(Record)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("%s/sim.json: %w", state, err)
	}
	r.State = state
	return r, nil
}

// claim writes the first sim.json, unless there is one.
func (r *Record) claim() error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	first := r.file(fmt.Sprintf("sim.json.%d", r.PID))
	if err := os.WriteFile(first, append(data, '\n'), 0o644); err != nil {
		return err
	}
	defer os.Remove(first)
	return os.Link(first, r.file("sim.json"))
}

// save writes sim.json atomically.
func (r *Record) save() error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(r.file("sim.json"), append(data, '\n'))
}

// writeFile replaces a file in one step.
func writeFile(path string, data []byte) error {
	next := path + ".new"
	if err := os.WriteFile(next, data, 0o644); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		os.Remove(next)
		return err
	}
	return nil
}

// stateFiles are all files that a simulation makes in its state directory.
func stateFiles() []string {
	files := []string{
		"sim.sock", "sim.log", "sim.pid", "sim.json", "sim.json.new",
		"agent.sock", "agent-session.sock", "device.sock", "shim.sock", "device.counters",
	}
	for _, d := range daemons {
		files = append(files, d+".pid", d+".pid.new", d+".cmd", d+".cmd.new", d+".log")
	}
	return files
}

// stateFolders are all folders that a simulation makes there.
func stateFolders() []string { return []string{"bpf", "store", "pki"} }

// removeState removes what a simulation made in its state directory, sim.json
// last: until then Down can be repeated.
func (r *Record) removeState() error {
	var errs []error
	for _, f := range stateFolders() {
		errs = append(errs, os.RemoveAll(r.file(f)))
	}
	for _, f := range stateFiles() {
		if f == "sim.json" {
			continue
		}
		if err := os.Remove(r.file(f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.Remove(r.file("sim.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if r.MadeState {
		os.Remove(r.State) // kept if somebody put something in
	}
	return nil
}
