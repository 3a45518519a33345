"""Storage by URI: directories and S3, what they can do, and who may write."""
