package protocol

import "cmp"

// DataSyncStatus is the state of the data paths of one workload. It is an
// addition to flotta v0.2. A direction that has no paths, or of which there is
// nothing to say yet, is nil.
type DataSyncStatus struct {
	Egress  *DataDirectionStatus `json:"egress,omitempty"`  // from the device to the bucket
	Ingress *DataDirectionStatus `json:"ingress,omitempty"` // from the bucket to the device
}

// DataDirectionStatus is the state of one direction.
type DataDirectionStatus struct {
	LastSuccess  Time          `json:"last_success,omitzero"` // end of the last look at all paths that found nothing wrong
	PendingFiles int64         `json:"pending_files,omitempty"`
	PendingBytes int64         `json:"pending_bytes,omitempty"` // as far as the sizes are known
	FailedFiles  int64         `json:"failed_files,omitempty"`  // they are tried again
	LastError    string        `json:"last_error,omitempty"`    // empty: the newest look had none
	Blocked      string        `json:"blocked,omitempty"`       // why transfers are held back although none failed
	Paused       string        `json:"paused,omitempty"`        // why nothing is to travel now, as the device's settings want it
	Problems     []DataProblem `json:"problems,omitempty"`      // that last until somebody changes something
}

// DataProblem is one thing that is wrong; Reason is one word.
type DataProblem struct {
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// maxDataProblems bounds the problems of one direction.
const maxDataProblems = 8

func (s *DataSyncStatus) bounded(room int) *DataSyncStatus {
	if s == nil {
		return nil
	}
	out := DataSyncStatus{Egress: s.Egress.bounded(room / 2), Ingress: s.Ingress.bounded(room / 2)}
	if out == (DataSyncStatus{}) {
		return nil
	}
	return &out
}

// bounded leaves each text a third of the room, and the problems one as well.
func (s *DataDirectionStatus) bounded(room int) *DataDirectionStatus {
	if s == nil {
		return nil
	}
	out := *s
	out.PendingFiles, out.PendingBytes, out.FailedFiles = max(s.PendingFiles, 0), max(s.PendingBytes, 0), max(s.FailedFiles, 0)
	size := min(room/3, maxStatusText)
	// There are never an error and a reason to wait at once that both matter.
	out.LastError = cut(s.LastError, size)
	out.Blocked = cut(s.Blocked, size)
	out.Paused = cut(s.Paused, min(size, maxStatusWord))
	out.Problems = nil
	left := room / 3
	for i, p := range s.Problems {
		if i == maxDataProblems || left <= 0 {
			break
		}
		p = DataProblem{Reason: cut(p.Reason, maxStatusWord/2), Message: cut(p.Message, min(left, maxStatusText))}
		left -= cmp.Or(len(p.Reason)+len(p.Message), 1)
		out.Problems = append(out.Problems, p)
	}
	return &out
}
