package deadletter

import "errors"

var (
	// ErrNotFound is returned when there is no such dead letter, or no longer: it
	// was redriven or discarded.
	ErrNotFound = errors.New("no such dead letter")
	// ErrAmbiguous is returned by [Get] when tasks of several kinds or classes
	// died under one id. The text lists them with their sequences, for [At].
	ErrAmbiguous = errors.New("several dead letters have this id")
	// ErrNoStream is returned when the stream DEAD does not exist.
	ErrNoStream = errors.New("there is no stream DEAD: create it with `drover streams apply`")
	// ErrNoBody is returned when the body of a letter is not in BODIES any more.
	ErrNoBody = errors.New("its body is gone")
	// ErrNoSubject is returned by [Redrive] when the letter does not say where its
	// task was published.
	ErrNoSubject = errors.New("it does not say where it was published")
	// ErrStays is returned by [Redrive] when the task is published but its letter
	// could not be deleted. Redrive it again within ten minutes to finish: that
	// publishes nothing new. Do not discard it: the task may need its body.
	ErrStays = errors.New("redriven, but the dead letter is still there")
	// ErrFilter is returned by [List] when the filter contradicts itself.
	ErrFilter = errors.New("bad filter")
)
