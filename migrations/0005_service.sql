-- A service one can run: what the configuration declares, secrets that overlap, a trail nobody can change unseen, alarms, gaps, what a trace hangs on.

-- What the configuration declares is not changed by anybody else.

-- A secret that is being replaced is good beside its successor for a while.

-- The trail's chain: digests of records, linked after their commit, and the signed heads.

-- Whom erasing made nobody.

-- What a restored database cannot know.

-- What somebody must look at, and whether he was told.

-- Where a trace began that a logout goes on.
