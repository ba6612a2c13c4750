package deadletter

import "context"

func (r *run) sweep(ctx context.Context) { <-ctx.Done() }
