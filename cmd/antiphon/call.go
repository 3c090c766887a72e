package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"antiphon/hwmodel/port"
	"antiphon/transport"
)

const (
	// callTimeout bounds a question that does not wait for anything.
	callTimeout = 60 * time.Second
	// answerMargin is how long the daemon may take to say that time is up.
	answerMargin = 10 * time.Second
)

// socket is the local daemon's: the agent's where there is one, else the shim's.
func (p *program) socket() (string, error) {
	dir, err := p.stateDir()
	if err != nil {
		return "", err
	}
	agent, shim := filepath.Join(dir, "agent.sock"), filepath.Join(dir, "shim.sock")
	if exists(agent) {
		return agent, nil
	}
	if exists(shim) {
		return shim, nil
	}
	return "", &exitError{exit: transport.ExitUnreachable, err: fmt.Errorf(
		"no daemon in %s: neither %s nor %s is there; start one, or name another directory with --state", dir, agent, shim)}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// ask sends a question to the local daemon. The answer's document comes back
// also with an error, which carries the exit status.
func (p *program) ask(ctx context.Context, timeout time.Duration, verb string, args any) ([]byte, error) {
	socket, err := p.socket()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	body, exit, err := transport.Call(ctx, socket, verb, args)
	switch {
	case err == nil && exit == transport.ExitOK:
		return body, nil
	case err == nil:
		return body, &exitError{exit: exit, err: fmt.Errorf("%s: negative answer", verb), body: body, silent: true}
	case exit == transport.ExitUnreachable || exit == transport.ExitSkew:
		err = fmt.Errorf("%s: %w", socket, err)
	}
	return body, &exitError{exit: exit, err: err, body: body}
}

// settle brings the carriers of a simulation in line with their cables, if the
// state directory is that of one.
func (p *program) settle(ctx context.Context, timeout time.Duration) error {
	dir, err := p.stateDir()
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "sim.sock")
	if !exists(path) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err = port.Settle(ctx, path)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return &exitError{exit: transport.ExitNegative, err: fmt.Errorf("timeout, still pending: %w", err)}
	}
	return &exitError{exit: transport.ExitUnreachable, err: err}
}

// tell prints an answer: as it came, or as text. A negative answer is told too.
func (p *program) tell(body []byte, err error, text func(*printer, []byte) error) error {
	var known *exitError
	if err != nil && !(errors.As(err, &known) && known.silent) {
		return err // its text says all of it
	}
	if p.json {
		var line bytes.Buffer
		if jerr := json.Compact(&line, body); jerr != nil {
			return &exitError{exit: transport.ExitSkew, err: fmt.Errorf("the daemon's answer is not JSON: %w", jerr)}
		}
		line.WriteByte('\n')
		if _, werr := p.out.Write(line.Bytes()); werr != nil {
			return fmt.Errorf("write the answer: %w", werr)
		}
		return err
	}
	w := &printer{}
	if terr := text(w, body); terr != nil {
		return &exitError{exit: transport.ExitSkew, err: fmt.Errorf("the daemon's answer is not understood: %w", terr)}
	}
	if _, werr := p.out.Write(w.Bytes()); werr != nil {
		return fmt.Errorf("write the answer: %w", werr)
	}
	return err
}
