package testenv

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// OperatorConfig says how an operator is started.
type OperatorConfig struct {
	Binary     string // the flotta-operator program
	Kubeconfig string
	Env        []string  // added to the program's environment, as NAME=value
	Log        io.Writer // may be nil
}

// Operator is a running flotta-operator.
type Operator struct {
	cfg   OperatorConfig
	ctx   context.Context //nolint:containedctx // the life of the program, which outlives each call
	probe int
	proc  *process
}

// StartOperator starts the operator and returns when it is ready. It runs until
// Stop is called or ctx ends.
func StartOperator(ctx context.Context, cfg OperatorConfig) (*Operator, error) {
	port, err := FreePort("127.0.0.1")
	if err != nil {
		return nil, err
	}
	o := &Operator{cfg: cfg, ctx: ctx, probe: port}
	return o, o.Start()
}

// Start starts the program again after Stop or Kill.
func (o *Operator) Start() error {
	address := "127.0.0.1:" + strconv.Itoa(o.probe)
	env := append([]string{
		"PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + o.cfg.Kubeconfig,
		"METRICS_ADDR=0", "PROBE_ADDR=" + address, "LOG_LEVEL=debug",
	}, o.cfg.Env...)
	proc, err := startProcess(o.ctx, o.cfg.Log, o.cfg.Binary, nil, func(cmd *exec.Cmd) { cmd.Env = env })
	if err != nil {
		return fmt.Errorf("start operator (make build): %w", err)
	}
	o.proc = proc
	return proc.wait(o.ctx, time.Minute, func(ctx context.Context) error {
		return answersOK(ctx, http.DefaultClient, "http://"+address+"/readyz", "")
	})
}

// Stop ends the program in order and waits for it.
func (o *Operator) Stop() { o.proc.Stop() }

// Kill ends the program at once.
func (o *Operator) Kill() { o.proc.Kill() }
