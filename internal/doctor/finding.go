package doctor

import "time"

// Level says how bad a finding is.
type Level string

// Levels, from good to bad. What does not apply to this machine is no worse than
// what is well.
const (
	OK   Level = "ok"
	Skip Level = "n/a"
	Warn Level = "warn" // works, but not for long or not as well as it could
	Fail Level = "fail"
)

// Finding is what was found at one thing.
type Finding struct {
	Check   string `json:"check"`             // which look it was, one word
	Subject string `json:"subject,omitempty"` // at what, when the check looks at several things
	Level   Level  `json:"level"`
	Found   string `json:"found"`            // for a person; may hold text of others
	Advice  string `json:"advice,omitempty"` // what to do; always there unless all is well
}

// Report is what came of all checks.
type Report struct {
	Time     time.Time `json:"time"`
	Level    Level     `json:"level"` // the worst of the findings
	Findings []Finding `json:"findings"`
}

// Count returns how many findings are of that level.
func (r Report) Count(l Level) int {
	n := 0
	for _, f := range r.Findings {
		if f.Level == l {
			n++
		}
	}
	return n
}

func (r Report) worst() Level {
	for _, l := range []Level{Fail, Warn} {
		if r.Count(l) > 0 {
			return l
		}
	}
	return OK
}

func ok(subject, found string) Finding { return Finding{Subject: subject, Level: OK, Found: found} }

func skip(subject, found string) Finding {
	return Finding{Subject: subject, Level: Skip, Found: found}
}

func warn(subject, found, advice string) Finding {
	return Finding{Subject: subject, Level: Warn, Found: found, Advice: advice}
}

func fail(subject, found, advice string) Finding {
	return Finding{Subject: subject, Level: Fail, Found: found, Advice: advice}
}
