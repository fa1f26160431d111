package playbook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// verifyTimeout is what looking at a playbook may take.
const verifyTimeout = 2 * time.Minute

// Execute runs the playbook of the run in that folder, and leaves there how it
// ended. It is the main process of a unit of its own: when ctx ends, the run is
// interrupted. An error means that the run did not begin, and may be begun again;
// but one that has begun never is.
func Execute(ctx context.Context, dir string, log *slog.Logger) error {
	lock, err := durable.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return fmt.Errorf("run playbook: %w", err)
	}
	defer lock.Close() //nolint:errcheck // it ends with the process
	papers, err := readPapers(dir)
	switch {
	case err != nil:
		return fmt.Errorf("run playbook: %w", err)
	case papers.request.Digest == "":
		return fmt.Errorf("run playbook: there is no request in %s", dir)
	case papers.result != nil:
		return nil
	case papers.phase.State == protocol.PlaybookRunning:
		return errors.New("run playbook: it was begun and interrupted; it is not run twice")
	}
	if err := adopt(); err != nil {
		return fmt.Errorf("run playbook: %w", err)
	}
	x := execution{
		dir: dir, request: papers.request, log: log.With("playbook", papers.request.Name),
		stage: stage{work: filepath.Join(dir, workDir), home: filepath.Join(dir, homeDir)},
	}
	res, err := x.run(ctx)
	if err != nil {
		return fmt.Errorf("run playbook %q: %w", x.request.Name, err)
	}
	res.At = time.Now().UTC()
	if err := durable.SaveDocument(filepath.Join(dir, resultFile), resultKind, documentVersion, res, 0o600); err != nil {
		return fmt.Errorf("run playbook %q: %w", x.request.Name, err)
	}
	x.log.Info("playbook ended", "ok", res.OK, "reason", res.Reason)
	if err := x.stage.clear(); err != nil {
		x.log.Warn("files of a playbook stay", "err", err)
	}
	return nil
}

// execution is one attempt at one playbook.
type execution struct {
	dir     string
	request request
	stage   stage
	log     *slog.Logger
}

// enter notes how far the run has come, before it goes on.
func (x execution) enter(state string) error {
	return durable.SaveDocument(filepath.Join(x.dir, phaseFile), phaseKind, documentVersion, phase{State: state, At: time.Now().UTC()}, 0o600)
}

func (x execution) run(ctx context.Context) (result, error) {
	if err := x.enter(protocol.PlaybookTargetVerification); err != nil {
		return result{}, err
	}
	program, err := find(x.request.Ansible)
	if err != nil {
		return result{Reason: ReasonAnsibleMissing, Message: err.Error()}, nil
	}
	who, err := lookUp(x.request.User)
	if err != nil {
		return result{Reason: ReasonUnknownUser, Message: first("on this device: "+err.Error(), maxMessage)}, nil
	}
	if err := x.stage.set(x.request, who); err != nil {
		return result{}, err
	}
	out, err := newOutput(filepath.Join(x.dir, outputFile))
	if err != nil {
		return result{}, err
	}
	defer func() {
		if err := out.close(); err != nil {
			x.log.Warn("output of a playbook is not all kept", "err", err)
		}
	}()
	p := process{
		env: x.stage.environ(who, os.Environ()), dir: "/", who: who,
		add: x.request.CapAdd, drop: x.request.CapDrop, out: out,
	}
	if verdict, err := x.verify(ctx, program, p); err != nil || verdict != nil {
		return *cmp.Or(verdict, &result{}), err
	}
	if err := x.enter(protocol.PlaybookRunning); err != nil {
		return result{}, err
	}
	x.log.Info("playbook starts", "timeout", x.request.Timeout, "user", who.name)
	return x.play(ctx, program, p), nil
}

// verify returns why the playbook is not run at all, if so. Nothing has been
// changed then.
func (x execution) verify(ctx context.Context, program string, p process) (*result, error) {
	p.timeout = verifyTimeout
	p.args = x.stage.arguments(program, x.request, "--syntax-check")
	end, err := p.run(ctx)
	switch {
	case err != nil:
		return &result{Reason: ReasonFailed, Message: first(err.Error(), maxMessage)}, nil
	case end.code == 0:
		p.out.reset() // nobody needs it
		return nil, nil
	case end.stopped:
		return nil, errors.New("it was interrupted while it was looked at")
	case end.timedOut:
		return &result{Reason: ReasonTimedOut, Message: "looking at it took more than " + verifyTimeout.String()}, nil
	case end.code < 0:
		return nil, fmt.Errorf("signal %q ended Ansible while it looked at it", end.signal)
	}
	return &result{Reason: ReasonInvalidPlaybook, Message: saying("Ansible cannot read it", p.out.tail())}, nil
}

// play runs it.
func (x execution) play(ctx context.Context, program string, p process) result {
	p.timeout = x.request.Timeout
	p.args = x.stage.arguments(program, x.request)
	before := outOfMemory()
	end, err := p.run(ctx)
	if err != nil {
		return result{Reason: ReasonFailed, Message: first(err.Error(), maxMessage)}
	}
	if end.killed > 0 {
		x.log.Warn("processes that a playbook had left running were ended", "count", end.killed)
	}
	return x.judge(end, p.out.tail(), outOfMemory() > before)
}

// judge says what the end of a run means.
func (x execution) judge(end ending, printed string, short bool) result {
	counts := recap(printed)
	failed := func(reason, what string) result {
		if counts != "" {
			what += "; " + counts
		}
		return result{Ran: true, Reason: reason, Message: saying(what, printed)}
	}
	switch {
	case end.timedOut:
		what := "it ran for more than " + x.request.Timeout.String()
		if x.request.Limited {
			what += ", which is the most that this device allows"
		}
		return failed(ReasonTimedOut, what)
	case end.code != 0 && short:
		return failed(ReasonOutOfMemory, "the kernel ended a process of it for want of memory")
	case end.stopped:
		return failed(ReasonInterrupted, "its unit was stopped, or the machine went down")
	case end.signal == syscall.SIGKILL || end.code < 0:
		return failed(ReasonInterrupted, fmt.Sprintf("signal %q ended Ansible", end.signal))
	case end.code != 0:
		return failed(ReasonFailed, fmt.Sprintf("Ansible ended with status %d", end.code))
	case counts == "" && strings.Contains(printed, noHosts):
		return failed(ReasonNoHostMatched, "no play is for this host: in a playbook, it is localhost")
	}
	return result{Ran: true, OK: true, Message: counts}
}
